"""Finds in the ledger whatever no event told: expired, lost and orphaned jobs, and data past its time."""
