"""Weakens the processes of a stack that a test has started with `--weaken`. Python imports this module as it starts."""

from tests.support.abuse.weakened import weaken_this_process

weaken_this_process()
