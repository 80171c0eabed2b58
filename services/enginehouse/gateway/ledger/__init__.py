"""The ledger: the truth about which jobs were accepted, and the queue."""
