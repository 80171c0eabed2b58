"""Programs that hostile engines run, in whatever they are contained. Each leaves what it found in `result`."""

FORK_BOMB = """
import os, signal
children = []
try:
    while len(children) < {most}:
        children.append(os.posix_spawn("/bin/sleep", ["sleep", "600"], {{}}))
except OSError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)
result = len(children)
"""
"""Starts processes until it cannot, `most` at the most. Result: their number."""

CONNECTS = """
import socket
from concurrent.futures import ThreadPoolExecutor
def attempt(target):
    try:
        socket.create_connection(tuple(target), 2).close()
        return "OPEN"
    except OSError as error:
        return type(error).__name__
with ThreadPoolExecutor(32) as pool:
    result = list(pool.map(attempt, {targets}))
"""
"""Connects to all `targets` at once. Result: for each what the attempt ended with, `OPEN` if it was let in."""

WRITES = """
import os, subprocess
result = dict(written=[], full=None)
for path in {tried}:
    try:
        open(path, "w").write("x")
        result["written"].append(path)
    except OSError:
        pass
try:
    with open("/tmp/big", "wb") as file:
        for _ in range(1000):
            file.write(bytes(1 << 20))
except OSError as error:
    result["full"] = error.strerror
result["bytes"] = os.path.getsize("/tmp/big")
os.remove("/tmp/big")
with open("/tmp/program", "w") as file:
    file.write("#!/bin/sh\\n")
os.chmod("/tmp/program", 0o755)
try:
    subprocess.run(["/tmp/program"])
    result["ran"] = True
except OSError as error:
    result["ran"] = error.strerror
"""
"""Writes to the files `tried`, then 1 GB into /tmp, and runs a program that it wrote there.

Result: which files were `written`, what was said when /tmp was `full`, after how many `bytes`, and how the program `ran`.
"""
