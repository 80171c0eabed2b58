"""Make every test run end on Ctrl-C. A shell's background job ignores it, and so would each process that a test starts."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
