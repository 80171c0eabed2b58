"""A hostile tenant makes no part of the platform call, write or show what it should not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.abuse.door import HOSTILE, Door
from tests.support.commands import run_command
from tests.support.stack import until

Noted = Callable[[str, str, str], None]
INSIDE = [
    "http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/",
    "http://localhost:{port}/", "http://LOCALHOST.:{port}/", "http://0:{port}/", "http://0.0.0.0:{port}/", "http://[::1]:{port}/",
    "http://[::]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/", "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/", "http://[2002:7f00:1::]:{port}/", "http://[fec0::1]:{port}/", "http://[fe80::1%25lo]:{port}/",
    "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://user:pass@127.0.0.1:{port}/", "http://127.0.0.1\\@example.com:{port}/",
    "http://①②⑦.0.0.1:{port}/", "http://127。0。0。1:{port}/",
]  # fmt: skip
ESCAPES = {"\x1b]0;owned\x07\x1b[2J": "[/nope] [red]x[/] \u202ecod\u202c \x00\x9b31m <script>alert(1)</script>"}


def engine_runs(door: Door, name: str) -> None:
    """Wait until an engine of the hostile tenant is up."""
    until(
        lambda: door.stack.state().get("engines", {}).get(f"{HOSTILE}--{name}", {}).get("state") == "running",
        f"{name} runs",
    )


@pytest.mark.parametrize("field", ["webhook"])
def test_webhooks_that_lead_inside(door: Door, field: str, note: Noted) -> None:
    port, accepted = door.listener.url.rpartition(":")[2], []
    for spelling in INSIDE:
        url = spelling.replace("{port}", port)
        answer = door.call("POST", "/v1/engines/obeys/jobs", {"input": {}, field: url})
        assert answer.status in (202, 422), (url, answer)
        if answer.status == 202:
            accepted.append(answer.body["id"])

    def tried(job: str) -> Any:
        webhooks = door.call("GET", f"/v1/jobs/{job}").body["webhooks"]
        return webhooks and webhooks[0]["attempts"] and webhooks[0]

    for job in accepted:
        notice = until(lambda job=job: tried(job), "the webhook was tried")  # type: ignore[misc]
        assert notice["state"] != "delivered"
    assert not [request for request in door.listener.requests if request.startswith("POST")]
    note(
        "webhooks to inside addresses, in 24 spellings",
        "addresses are checked and pinned",
        f"{len(INSIDE) - len(accepted)} x 422, {len(accepted)} not delivered; no request came",
    )


@pytest.mark.parametrize("engine", ["fetching", "refers"])
def test_schemas_that_name_addresses(door: Door, engine: str, note: Noted) -> None:
    engine_runs(door, engine)
    until(lambda: door.call("GET", f"/v1/engines/{engine}").body.get("card"), "the runner has read its schema")
    answer = door.call("POST", f"/v1/engines/{engine}/jobs", {"input": {}}, Prefer="wait=10")
    assert answer.status in (200, 202, 422), answer
    found = f"{len(door.listener.requests)} requests came"
    note(f"a schema that names an address ({engine})", "nothing is ever fetched", found)
    assert door.listener.requests == []


def test_escape_sequences_and_markup(door: Door, note: Noted) -> None:
    engine_runs(door, "pattern")
    answer = door.call("POST", "/v1/engines/obeys/jobs", {"input": ESCAPES, "parameters": ESCAPES}, Prefer="wait=10")
    assert answer.status in (200, 422), answer
    raw = door.connect()
    raw.request("GET", "/v1/engines", headers={"Authorization": f"Bearer {door.key()}"})
    text = raw.getresponse().read()
    raw.close()
    assert not any(byte < 0x20 for byte in text)
    pages = [
        command(door, *words)
        for words in (("engines",), ("engines", "show", "hostile--pattern"), ("status",), ("jobs",))
    ]
    for page in pages:
        assert "Traceback" not in page
        assert not any(ord(sign) < 0x20 and sign != "\n" for sign in page), repr(page)
        assert not set(page) & set("\u202e\u202c\u2066\u2067\u2068\u2069\x9b"), repr(page)
    assert "/nope" in pages[1]
    note(
        "escape sequences, bidi and markup in descriptions and outputs",
        "shown as text",
        f"{len(pages)} pages without a control",
    )


def command(door: Door, *words: str) -> str:
    """Run a command of the operator, and return what it printed."""
    done = run_command(door.stack.home.path, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


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
    note("a batch with another's engine and nonsense", "each item is judged alone", ", ".join(codes))
