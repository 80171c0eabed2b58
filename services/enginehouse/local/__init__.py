"""Running the whole system as processes of one machine: getting daprd and Redis, ports, processes, the stack."""
