"""A hostile tenant makes no part of the platform call, write or show what it should not."""

import json
from typing import Any

import pytest
from tests.support.abuse.door import HOSTILE, Door
from tests.support.break_ins import Noted, attempt
from tests.support.commands import run_command
from tests.support.stack import until

ADDRESSES = [
    "127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[fec0::1]", "[fe80::1%25lo]", "169.254.169.254", "10.0.0.1", "user:pass@127.0.0.1",
]  # fmt: skip
"""Refused at submit: nobody needs to listen there."""
NAMES = [
    "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "localhost", "LOCALHOST.", "127.0.0.1\\@example.com",
    "①②⑦.0.0.1", "127。0。0。1",
]  # fmt: skip
"""Not seen to be addresses before they are looked up. Those that lead anywhere lead to a listener of this machine."""
COMMANDS = [("engines",), ("engines", "show", "hostile--pattern"), ("status",), ("jobs",)]
ESCAPES = {"\x1b]0;owned\x07\x1b[2J": "[/nope] [red]x[/] \u202ecod\u202c \x00\x9b31m <script>alert(1)</script>"}


def engine_runs(door: Door, name: str) -> None:
    """Wait until an engine of the hostile tenant is up."""
    until(
        lambda: door.stack.state().get("engines", {}).get(f"{HOSTILE}--{name}", {}).get("state") == "running",
        f"{name} runs",
    )


@attempt("aims webhooks at inside addresses in 24 spellings", layer="addresses are checked after resolving, and pinned")
@pytest.mark.parametrize("field", ["webhook"])
def test_webhooks_that_lead_inside(door: Door, field: str, note: Noted) -> None:
    port, accepted = door.listener.url.rpartition(":")[2], []
    for host in [*ADDRESSES, *NAMES]:
        answer = door.call("POST", "/v1/engines/obeys/jobs", {"input": {}, field: f"http://{host}:{port}/"})
        assert answer.status == 422 or (answer.status == 202 and host in NAMES), (host, answer)
        if answer.status == 202:
            accepted.append(answer.body["id"])

    def tried(job: str) -> Any:
        webhooks = door.call("GET", f"/v1/jobs/{job}").body["webhooks"]
        return webhooks and webhooks[0]["attempts"] and webhooks[0]

    for job in accepted:
        notice = until(lambda job=job: tried(job), "the webhook was tried")  # type: ignore[misc]
        assert notice["state"] != "delivered"
    assert not [request for request in door.listener.requests if request.startswith("POST")]
    note(f"{len(ADDRESSES + NAMES) - len(accepted)} x 422, {len(accepted)} not delivered; no request came")


@attempt("names an address in a schema, by $schema, $ref, $dynamicRef", layer="nothing is ever fetched")
@pytest.mark.parametrize("engine", ["fetching", "refers"])
def test_schemas_that_name_addresses(door: Door, engine: str, note: Noted) -> None:
    engine_runs(door, engine)
    until(lambda: door.call("GET", f"/v1/engines/{engine}").body.get("card"), "the runner has read its schema")
    answer = door.call("POST", f"/v1/engines/{engine}/jobs", {"input": {}}, Prefer="wait=10")
    assert answer.status in (200, 202, 422), answer
    found = f"{len(door.listener.requests)} requests came"
    note(found)
    assert door.listener.requests == []


@attempt("puts escape sequences, bidi and markup into descriptions and outputs", layer="shown as text")
def test_escape_sequences_and_markup(door: Door, note: Noted) -> None:
    engine_runs(door, "pattern")
    answer = door.call("POST", "/v1/engines/obeys/jobs", {"input": ESCAPES, "parameters": ESCAPES}, Prefer="wait=10")
    assert answer.status == 200, answer
    raw = door.connect()
    raw.request("GET", "/v1/engines", headers={"Authorization": f"Bearer {door.key()}"})
    text = raw.getresponse().read()
    raw.close()
    assert not any(byte < 0x20 for byte in text)
    pages = [command(door, *words) for words in COMMANDS]
    for page in pages:
        assert "Traceback" not in page
        assert not any(ord(sign) < 0x20 and sign != "\n" for sign in page), repr(page)
        assert not set(page) & set("\u202e\u202c\u2066\u2067\u2068\u2069\x9b"), repr(page)
    assert "/nope" in pages[1]
    note(f"{len(pages)} pages without a control")


def command(door: Door, *words: str) -> str:
    """Run a command of the operator, and return what it printed."""
    done = run_command(door.stack.home.path, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@attempt("hides another's engine in a batch among good jobs", layer="each item is judged alone")
def test_a_batch_of_many_kinds_refuses_only_what_is_wrong(door: Door, note: Noted) -> None:
    jobs: list[Any] = [
        {"engine": "obeys", "input": {}},
        {"engine": "victim--private", "input": 1},
        {"engine": "../x"},
        7,
        {"input": 1, "tenant": "victim"},
        None,
    ]
    answer = door.call("POST", "/v1/jobs/batch", {"jobs": jobs})
    assert answer.status == 202
    codes = [item.get("problem", {}).get("code", "accepted") for item in answer.body["jobs"]]
    assert codes[0] == "accepted"
    assert "accepted" not in codes[1:]
    assert door.call("POST", "/v1/jobs/batch", json.dumps({"jobs": [{}] * 1_001}).encode()).status == 422
    note(", ".join(codes))
