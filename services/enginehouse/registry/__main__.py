"""`python -m enginehouse.registry`. Processes that unpack uploads load this module again: it imports almost nothing."""

from enginehouse.extras import run_main

if __name__ == "__main__":
    run_main("enginehouse.registry.serve", "platform", "The registry")
