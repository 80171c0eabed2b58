"""Knows the engines and their cards, and decides whether they get jobs."""
