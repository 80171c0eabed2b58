"""Turns runners' reports into ledger rows, and informs all parts that depend on them."""
