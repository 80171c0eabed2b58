"""A program: submits small jobs one after the other for some seconds, and prints the delay of each as JSON.

It is a process of its own, so that what attacks in the test's process does not delay it.
"""

import http.client
import json
import sys
import time
from typing import Any

_PAUSE_SECONDS = 0.01


def main(host: str, port: str, key: str, engine: str, seconds: str) -> None:
    """Print a line when the first job has ended, and at the end the delays in seconds and the answers that were no results."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Prefer": "wait=20"}
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    delays: list[float] = []
    others: list[Any] = []
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        began = time.monotonic()
        try:
            connection.request("POST", f"/v1/engines/{engine}/jobs", b'{"input":{"small":1}}', headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status != 200 or body["status"] != "succeeded":
                others.append([answer.status, body.get("code") or body.get("status"), body.get("error")])
        except (OSError, http.client.HTTPException) as error:
            others.append([0, type(error).__name__, str(error)])
            connection.close()
        if deadline is None:
            deadline = time.monotonic() + float(seconds)
            print("begun", flush=True)
        else:
            delays.append(time.monotonic() - began)
        time.sleep(_PAUSE_SECONDS)
    print(json.dumps({"delays": delays, "others": others}))


if __name__ == "__main__":
    main(*sys.argv[1:])
