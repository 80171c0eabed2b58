"""Writes, reads and checks the audit log."""
