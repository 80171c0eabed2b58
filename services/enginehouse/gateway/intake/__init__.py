"""Turns requests and upstream events into accepted jobs."""
