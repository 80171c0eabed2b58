"""Identifies callers, and limits how much each tenant may use."""
