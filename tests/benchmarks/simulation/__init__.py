"""A simulated cell of gateways, ledger and broker: its costs are those that `make bench` has recorded."""
