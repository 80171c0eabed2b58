"""`python -m enginehouse.runner`. Processes that check something for the runner load this module again: it imports almost nothing."""

from enginehouse.extras import run_main

if __name__ == "__main__":
    run_main("enginehouse.runner.serve", "platform", "The runner")
