"""Entry point of the `enginehouse` command. Imports none of our modules at first, so that Ctrl-C works at once."""

import signal
import sys


def main() -> None:
    """Run the command."""
    # Nothing runs yet while modules are imported, so Ctrl-C may end the process at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from enginehouse.extras import MissingExtra, needs, quick_imports

    try:
        with needs("platform", "The 'enginehouse' command"), quick_imports():
            from enginehouse.cli.app import app
    except MissingExtra as missing:
        sys.exit(str(missing))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
