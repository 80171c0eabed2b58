"""Enginehouse: many clients' inference engines behind one API."""
