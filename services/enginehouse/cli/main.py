"""Entry point of the `enginehouse` command. It imports nothing of ours by itself, so that Ctrl-C is heard at once."""

import signal
import sys


def main() -> None:
    """Run the command."""
    # While modules are imported nothing has been started: Ctrl-C ends this like any program, with no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from enginehouse.cli.app import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
