"""The API: authenticates, validates, records in the ledger, hands over, answers. Knows no engine by name."""
