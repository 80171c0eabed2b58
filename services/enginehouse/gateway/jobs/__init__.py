"""Serves callers after their jobs were accepted: read, wait, follow, cancel, retry."""
