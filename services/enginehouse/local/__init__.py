"""Run a whole deployment as processes on one machine: get daprd and Redis, take ports, start and watch processes."""
