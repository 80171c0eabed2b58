"""Translates HTTP: who calls, what is uploaded, and what the functions of the registry answer."""
