"""`python -m enginehouse.gateway`. Processes that check something for the gateway load this module again: it imports almost nothing."""

import os

from enginehouse.extras import run_main

if __name__ == "__main__":
    # gRPC writes lines of its own into the log, and one at the start of each process that checks something.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    run_main("enginehouse.gateway.serve", "platform", "The gateway")
