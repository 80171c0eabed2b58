"""Hands jobs over to their engines' topics."""
