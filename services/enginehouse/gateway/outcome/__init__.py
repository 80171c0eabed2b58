"""Turns what runners report into ledger rows, and tells everybody who must know."""
