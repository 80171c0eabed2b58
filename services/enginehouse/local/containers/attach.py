"""Run one container in the foreground: `python attach.py PLAN`, a JSON object with `name`, `create` and `connect`.

What an earlier container of this name has left is removed first. Then this process becomes `docker start --attach`, which
passes SIGTERM on and ends with the container's exit status.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence


def attached(name: str, create: Sequence[str], connect: Sequence[Sequence[str]] = ()) -> list[str]:
    """Return the command that runs the container `name`, made by `docker create` with the arguments `create`.

    `connect` are arguments of `docker network connect`, for more networks than one.
    """
    plan = {"name": name, "create": list(create), "connect": [list(one) for one in connect]}
    # -I -S: standard library only. It starts in milliseconds, and the environment cannot inject code into it.
    return [sys.executable, "-I", "-S", __file__, json.dumps(plan)]


def main() -> None:
    """Make the container and become the command that shows its output."""
    plan = json.loads(sys.argv[1])
    name = plan["name"]
    subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)
    for command in (
        ["create", "--name", name, *plan["create"]],
        *(["network", "connect", *arguments, name] for arguments in plan["connect"]),
    ):
        made = subprocess.run(["docker", *command], stdout=subprocess.DEVNULL, check=False)
        if made.returncode:
            sys.exit(made.returncode)
    os.execvp("docker", ["docker", "start", "--attach", name])  # noqa: S606 - there is no shell on purpose


if __name__ == "__main__":
    main()
