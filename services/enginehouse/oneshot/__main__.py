"""Run it beside an engine: python -m enginehouse.oneshot --port 8800 --engine-port 8000 --idle-seconds 60."""

import argparse
import asyncio
import json
import signal
import sys
from datetime import UTC, datetime

from enginehouse.oneshot.door import Door


def main() -> None:
    """Let one job in, and end when it is over."""
    parser = argparse.ArgumentParser(prog="enginehouse.oneshot", description="Let one job in, and end when it is over.")
    parser.add_argument("--port", type=int, required=True, help="where the job comes")
    parser.add_argument("--engine-port", type=int, required=True, help="where the engine beside it listens")
    parser.add_argument("--idle-seconds", type=float, required=True, help="longest time to wait for the job")
    given = parser.parse_args()
    asyncio.run(_run(given.port, given.engine_port, given.idle_seconds))


async def _run(port: int, engine_port: int, idle_seconds: float) -> None:
    door = Door(engine_port, idle_seconds)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, door.close)
    _say("It waits for its one job", "oneshot_started")
    _say(await door.stand("", port), "oneshot_ended")


def _say(sentence: str, action: str) -> None:
    # As the other services log, without what they need for it: this process is as small as it can be.
    line = {"event": sentence, "action": action, "level": "info", "timestamp": datetime.now(UTC).isoformat()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
