"""Keeps the ledger: the truth about which jobs were accepted, and their queue."""
