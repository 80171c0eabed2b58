"""The attacks that load a stack. Each goes on until `over` is set, and tells how the gateway answered."""

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tests.support.abuse.door import PRIVATE_ENGINE, SHARED_ENGINE, Door

Attack = Callable[[Door, threading.Event], str]

_MB = 1024 * 1024
_FLOOD_PROGRAM = Path(__file__).with_name("flood.py")
_HALF_OPEN, _STREAMS = 320, 300
_FLOOD, _FLOOD_SECONDS = 1_500, 0.05
"""Jobs of a flood, and how long the engine works on each."""


@dataclass(frozen=True)
class Request:
    """A request that is sent again and again."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    anonymous: bool = False


def _submit(engine: str, value: bytes, more: bytes = b"") -> Request:
    return Request("POST", f"/v1/engines/{engine}/jobs", b'{"input":' + value + more + b"}")


def _repeat(door: Door, over: threading.Event, at_once: int, *requests: Request, longest: int = 1_000_000) -> str:
    """Send the requests by turns over that many connections, and count the answers by status."""
    statuses: Counter[int] = Counter()

    def send() -> None:
        connection = door.connect()
        for number in range(longest):
            request = requests[number % len(requests)]
            headers = {"Content-Type": request.content_type}
            if not request.anonymous:
                headers["Authorization"] = f"Bearer {door.key()}"
            try:
                connection.request(request.method, request.path, request.body or None, headers)
                answer = connection.getresponse()
                answer.read()
                statuses[answer.status] += 1
            except (OSError, HTTPException):
                statuses[0] += 1
                connection.close()
            if over.is_set():
                break
        connection.close()

    threads = [threading.Thread(target=send, daemon=True) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return _counted(statuses)


def _counted(statuses: Counter[int]) -> str:
    named = {0: "connection closed"}
    return ", ".join(f"{number} x {named.get(status, status)}" for status, number in statuses.most_common())


def _flooded(door: Door, over: threading.Event, connections: int, request: Request) -> str:
    """Repeat a request over many connections without a pause, from a process of its own."""
    head = [f"{request.method} {request.path} HTTP/1.1", "Host: gateway", f"Content-Type: {request.content_type}"]
    if not request.anonymous:
        head.append(f"Authorization: Bearer {door.key()}")
    head.append(f"Content-Length: {len(request.body)}")
    sent = "\r\n".join(head).encode() + b"\r\n\r\n" + request.body
    command = [sys.executable, str(_FLOOD_PROGRAM), *map(str, door.address), str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"%d\n%b" % (len(sent), sent))
        program.stdin.flush()
        over.wait(60)
        program.stdin.close()
        statuses = Counter({int(status): count for status, count in json.loads(program.stdout.readline()).items()})
    return _counted(statuses)


def requests_without_a_key(door: Door, over: threading.Event) -> str:
    """Ask for what needs a key over 300 connections, without one."""
    return _flooded(door, over, 300, Request("GET", "/v1/engines", anonymous=True))


def submits_that_are_refused(door: Door, over: threading.Event) -> str:
    """Submit jobs to an engine that does not exist over 64 connections."""
    return _flooded(door, over, 64, _submit("nobody", b"{}"))


def batches(door: Door, over: threading.Event) -> str:
    """Submit batches of a thousand jobs over 8 connections."""
    batch = b'{"jobs":[' + b",".join([b'{"engine":"obeys","input":{}}'] * 1_000) + b"]}"
    return _purged(door, _flooded(door, over, 8, Request("POST", "/v1/jobs/batch", batch)))


def bodies_below_the_limit(door: Door, over: threading.Event) -> str:
    """Submit jobs of 63 KB of small objects over 16 connections."""
    return _purged(door, _flooded(door, over, 16, _submit("obeys", b"[" + b",".join([b"{}"] * 21_000) + b"]")))


def _purged(door: Door, answers: str) -> str:
    door.purge()
    return answers


def schema_that_doubles(door: Door, over: threading.Event) -> str:
    """Submit to an engine of one's own, whose schema takes 2^26 steps for each value."""
    return _repeat(door, over, 4, _submit("doubling", b'"x"'))


def pattern_of_patterns(door: Door, over: threading.Event) -> str:
    """Submit to an engine of one's own, whose pattern is a huge automaton."""
    return _repeat(door, over, 4, _submit("pattern", b'"' + b"a" * 2_000 + b'"'))


def bodies_of_small_objects(door: Door, over: threading.Event) -> str:
    """Send bodies of 7.9 MB that are nothing but small objects."""
    value = b"[" + b",".join([b"{}"] * (79 * _MB // 10 // 3)) + b"]"
    return _repeat(door, over, 5, _submit("obeys", value))


def bodies_that_are_refused(door: Door, over: threading.Event) -> str:
    """Send bodies of 7.9 MB in which every value is wrong."""
    wrong = b",".join(b'"f%d":{}' % number for number in range(500_000))
    return _repeat(door, over, 5, Request("POST", "/v1/jobs", b'{"input":1,' + wrong + b"}"))


def large_events(door: Door, over: threading.Event) -> str:
    """Send CloudEvents of 7 MB, alone and a thousand in a batch."""
    event = {"specversion": "1.0", "id": "large", "source": "/hostile", "type": "any", "engineid": "obeys"}
    single = json.dumps({**event, "data": [{}] * (7 * _MB // 4)}).encode()
    batch = json.dumps([{**event, "id": str(n), "data": [{}] * 1_700} for n in range(1_000)]).encode()
    return _repeat(
        door,
        over,
        3,
        Request("POST", "/v1/events", single, "application/cloudevents+json"),
        Request("POST", "/v1/events", batch, "application/cloudevents-batch+json"),
    )


def large_parameters(door: Door, over: threading.Event) -> str:
    """Submit jobs whose parameters have 7 MB."""
    return _repeat(door, over, 3, _submit("obeys", b"1", b',"parameters":{"p":"' + b"x" * (7 * _MB) + b'"}'))


def listings(door: Door, over: threading.Event) -> str:
    """List a thousand jobs, eight times at once."""
    return _repeat(door, over, 8, Request("GET", "/v1/jobs?limit=1000"))


def documents(door: Door, over: threading.Event) -> str:
    """Read the OpenAPI document and the page, without a key."""
    paths = ("/openapi.json", "/docs", "/docs/swagger-ui-bundle.js")
    return _repeat(door, over, 8, *(Request("GET", path, anonymous=True) for path in paths))


def many_streams(door: Door, over: threading.Event) -> str:
    """Follow one job by 300 streams."""
    job = door.call("POST", "/v1/engines/obeys/jobs", {"input": {"seconds": 4}}).body["id"]
    request = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {door.key()}\r\n\r\n"
    connections, statuses = [], Counter[int]()
    for _ in range(_STREAMS):
        if over.is_set():
            break
        connection = socket.create_connection(door.address, timeout=20)
        connection.sendall(request.encode())
        connections.append(connection)
    over.wait(20)
    for connection in connections:
        with suppress(OSError), connection:
            statuses[int(connection.recv(16).split()[1])] += 1
    return _counted(statuses)


def half_open_connections(door: Door, over: threading.Event) -> str:
    """Begin 320 requests without a key and never end them: `door.strangers` keeps them open."""
    parts = [
        b"GET /healthz/live HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /v1/jobs HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
    ]
    for number in range(_HALF_OPEN):
        connection = socket.create_connection(door.address, timeout=20)
        connection.sendall(parts[number % len(parts)])
        door.strangers.append(connection)
    over.wait(20)
    return f"{_HALF_OPEN} connections"


def arrays_of_arrays(door: Door, over: threading.Event) -> str:
    """Upload 32 MB of `[[],…]`, and name it as the input of jobs of the shared engine."""
    upload = door.call("POST", "/v1/uploads", {"content_type": "application/json"}).body
    connection = door.connect()
    body = b"[" + b",".join([b"[]"] * (32 * _MB // 3)) + b"]"
    connection.request("PUT", upload["url"].removeprefix(door.stack.base_url), body)
    stored = connection.getresponse()
    stored.read()
    connection.close()
    if stored.status != 201:
        return f"{stored.status} at the upload"
    body = json.dumps({"input_ref": upload["key"]}).encode()
    return _repeat(door, over, 1, Request("POST", f"/v1/engines/{SHARED_ENGINE}/jobs", body), longest=5)


def _flood(door: Door, over: threading.Event, number: int, job: bytes) -> str:
    """Submit so many jobs in batches, and let them be worked on until `over`; the rest is canceled."""
    statuses: Counter[str] = Counter()
    batch = b'{"jobs":[' + b",".join([job] * 250) + b"]}"
    for _ in range(-(-number // 250)):
        answer = door.call("POST", "/v1/jobs/batch", batch)
        if answer.status == 202:
            statuses.update(item.get("problem", {}).get("code", "accepted") for item in answer.body["jobs"])
        else:
            statuses[answer.body["code"]] += 250
    over.wait(60)
    door.purge()
    return ", ".join(f"{count} x {code}" for code, count in statuses.most_common())


def _job(orders: str, more: str = "") -> bytes:
    return f'{{"engine":"{SHARED_ENGINE}","input":{orders}{more}}}'.encode()


def first_in_line(door: Door, over: threading.Event) -> str:
    """Submit 1,500 jobs with the highest priority."""
    return _flood(door, over, _FLOOD, _job(f'{{"seconds":{_FLOOD_SECONDS}}}', ',"priority":9'))


def a_full_queue(door: Door, over: threading.Event) -> str:
    """Submit more jobs than the shared engine's queue holds."""
    return _flood(door, over, 3_000, _job(f'{{"seconds":{_FLOOD_SECONDS}}}'))


def inputs_that_fail(door: Door, over: threading.Event) -> str:
    """Submit 50 inputs at which the shared engine fails."""
    return _flood(door, over, 50, _job('{"do":"fail"}', ',"retry":{"max_attempts":1}'))


def inputs_that_time_out(door: Door, over: threading.Event) -> str:
    """Submit 250 inputs that take longer than they may."""
    more = f',"execution_timeout_seconds":{_FLOOD_SECONDS},"retry":{{"max_attempts":1}}'
    return _flood(door, over, 250, _job('{"seconds":30}', more))


def inputs_that_kill(door: Door, over: threading.Event) -> str:
    """Submit inputs that kill the shared engine's process, one after the other."""
    request = Request("POST", "/v1/jobs", _job('{"do":"die"}', ',"retry":{"max_attempts":1}'))
    return _repeat(door, over, 1, request, longest=3)


@dataclass(frozen=True)
class Attempt:
    """An attack, what should stop it, and on which engine the victim feels it."""

    attack: Attack
    stopped_by: str
    answered: str
    """Answers of which one at least must come, separated by `|`: then it got as far as what should stop it."""
    engine: str = PRIVATE_ENGINE
    turn_seconds: float = 0.0
    """On a shared engine: the time of one job and of one turn of its window. None of it on an own engine."""
    broken: bool = False
    """Whether the engine itself is ended by it: then the victim's jobs come later, and all come."""

    @property
    def name(self) -> str:
        """The name of the attack, as a sentence would have it."""
        return self.attack.__name__.replace("_", " ")


_TURN = (32 / 4 + 1) * _FLOOD_SECONDS
FREEZING = [
    Attempt(schema_that_doubles, "bounded schemas, checked in processes with a time limit", "202"),
    Attempt(pattern_of_patterns, "bounded patterns", "202"),
    Attempt(bodies_of_small_objects, "bodies read off the loop, bytes in hand bounded", "202|429"),
    Attempt(bodies_that_are_refused, "bodies read off the loop, errors bounded", "422"),
    Attempt(large_events, "bodies read off the loop", "202|413|429"),
    Attempt(large_parameters, "what the way cannot carry is refused", "413"),
    Attempt(listings, "rows without models", "200"),
    Attempt(documents, "written once", "200"),
    Attempt(many_streams, "followers bounded, one serialisation", "200"),
    Attempt(requests_without_a_key, "a share of the event loop each", "401"),
    Attempt(submits_that_are_refused, "a share of the event loop each", "404"),
    Attempt(batches, "a share of the event loop each, and turns in the ledger's groups", "202|429"),
    Attempt(bodies_below_the_limit, "a share of the event loop each", "202|429"),
    Attempt(half_open_connections, "connections cost nothing, and time out", "320 connections"),
]
STARVING = [
    Attempt(arrays_of_arrays, "smaller limits of a shared engine", "413|422", SHARED_ENGINE, 1.0),
    Attempt(first_in_line, "fair share before priority", "accepted", SHARED_ENGINE, _TURN),
    Attempt(a_full_queue, "a share of the queue each", "QUEUE_FULL", SHARED_ENGINE, _TURN),
    Attempt(inputs_that_fail, "the breaker counts tenants", "accepted", SHARED_ENGINE, _TURN),
    Attempt(inputs_that_time_out, "a share of the places each", "accepted", SHARED_ENGINE, _TURN),
    Attempt(inputs_that_kill, "restarted; the victim's jobs are tried again", "202", SHARED_ENGINE, broken=True),
]
