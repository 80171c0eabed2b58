"""Searches the ledger for work that no event announces: expired, lost and orphaned jobs, and data past its time."""
