"""Of every test run: Ctrl-C is heard. A shell's background job ignores it, and so would every process that a test starts."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
