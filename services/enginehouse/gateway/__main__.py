"""`python -m enginehouse.gateway`. Processes that check something for the gateway load this module again: it imports almost nothing."""

from enginehouse.extras import run_main

if __name__ == "__main__":
    run_main("enginehouse.gateway.serve", "platform", "The gateway")
