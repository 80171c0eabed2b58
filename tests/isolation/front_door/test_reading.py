"""A hostile tenant reads, names and forges nothing of its victim's, whatever it sends."""

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from tests.support.abuse.door import HOSTILE, VICTIM, Door
from tests.support.break_ins import Noted, attempt
from tests.support.stack import until

from enginehouse.local.home import LOCAL_TENANT

SECRET = "the victim's secret 4711"


@dataclass(frozen=True)
class Victims:
    """What the victim has."""

    job: str
    dead: str
    """A job that was given up: its dead letter has the same id."""
    upload: dict[str, Any]
    key: str
    """The Idempotency-Key of `job`."""


@pytest.fixture(scope="module")
def victims(door: Door) -> Victims:
    key = str(uuid.uuid4())
    made = door.call(
        "POST", "/v1/engines/private/jobs", {"input": SECRET}, VICTIM, Idempotency_Key=key, Prefer="wait=20"
    )
    failing = {"input": {"do": "fail", "why": SECRET}, "retry": {"max_attempts": 1}}
    dead = door.call("POST", "/v1/engines/obeys/jobs", failing, VICTIM, Prefer="wait=20").body["id"]
    until(lambda: door.call("GET", f"/v1/dead-letters/{dead}", tenant=VICTIM).status == 200, "the dead letter is kept")
    upload = door.call("POST", "/v1/uploads", {"content_type": "application/json"}, VICTIM).body
    connection = door.connect()
    connection.request("PUT", upload["url"].removeprefix(door.stack.base_url), json.dumps(SECRET))
    assert connection.getresponse().status == 201
    connection.close()
    return Victims(made.body["id"], dead, upload, key)


def refused(door: Door, calls: list[tuple[str, str, Any]], status: int) -> str:
    """Make the calls as the hostile tenant. Each must be answered with `status`, and show nothing of the victim's."""
    for method, path, body in calls:
        answer = door.call(method, path, body)
        assert answer.status == status, (method, path, answer)
        assert SECRET not in json.dumps(answer.body), (method, path)
    return f"{len(calls)} x {status}"


@attempt("reads another's job", layer="every id is looked up with its owner")
@attempt("follows another's job by server-sent events", layer="every id is looked up with its owner")
@attempt("cancels another's job", layer="every id is looked up with its owner")
@attempt("retries another's job, which would show its input", layer="every id is looked up with its owner")
@attempt("reads, redrives, discards another's dead letter", layer="every id is looked up with its owner")
def test_another_tenants_jobs(door: Door, victims: Victims, note: Noted) -> None:
    calls: list[tuple[str, str, Any]] = []
    for job in (victims.job, victims.dead):
        calls += [("GET", f"/v1/jobs/{job}{rest}", None) for rest in ("", "?wait=1", "/events")]
        calls += [("POST", f"/v1/jobs/{job}/{what}", None) for what in ("cancel", "retry")]
    calls += [("GET", f"/v1/dead-letters/{victims.dead}", None)]
    calls += [("POST", f"/v1/dead-letters/{victims.dead}/{what}", None) for what in ("redrive", "discard")]
    note(refused(door, calls, 404))
    assert door.call("GET", f"/v1/dead-letters/{victims.dead}", tenant=VICTIM).status == 200


@attempt("pages on from a cursor that is another's job", layer="listings are of one tenant")
def test_pages_that_begin_at_another_tenants_job(door: Door, victims: Victims, note: Noted) -> None:
    own = set()
    for cursor in (victims.job, victims.dead, "ffffffff-ffff-7fff-bfff-ffffffffffff"):
        page = door.call("GET", f"/v1/jobs?limit=1000&cursor={cursor}").body
        own |= {job["id"] for job in page["jobs"]}
    assert not own & {victims.job, victims.dead}
    assert door.call("GET", f"/v1/dead-letters?cursor={victims.dead}").body.get("dead_letters", []) == []
    note(f"{len(own)} jobs, all own")


@attempt("uses or sees another's private engine", layer="names resolve to own and shared engines")
@attempt("quarantines, resumes, purges another's engine", layer="owners and administrators only")
def test_another_tenants_engine(door: Door, note: Noted) -> None:
    calls: list[tuple[str, str, Any]] = []
    for name in ("victim--private", "private", "victim--none"):
        calls += [("GET", f"/v1/engines/{name}{rest}", None) for rest in ("", "/openapi.json")]
        calls += [("GET", f"/v1/jobs?engine={name}", None)]
        calls += [
            ("POST", f"/v1/engines/{name}/jobs", {"input": 1}),
            ("POST", "/v1/jobs", {"engine": name, "input": 1}),
        ]
    evidence = refused(door, calls, 404)
    seen = {engine["id"] for engine in door.call("GET", "/v1/engines?limit=1000").body["engines"]}
    assert not any(engine.startswith("victim--") for engine in seen)
    for what in ("quarantine", "resume", "purge"):
        answer = door.call(
            "POST", f"/v1/engines/victim--private/{what}", {"reason": "mine"} if what == "quarantine" else None
        )
        assert answer.status in (403, 404), answer
    note(evidence)


@attempt("reads and writes objects by guessed and edited signed URLs", layer="HMAC over method, key and time")
def test_objects_by_edited_signatures(door: Door, victims: Victims, note: Noted) -> None:
    mine = door.call("POST", "/v1/uploads", {"content_type": "application/json"}).body
    path, _, query = mine["url"].removeprefix(door.stack.base_url).partition("?")
    theirs = f"/v1/objects/{victims.upload['key']}"
    expires = query.partition("expires=")[2].partition("&")[0]
    signature = query.partition("signature=")[2]
    tried = [
        ("PUT", f"{theirs}?{query}"),
        ("GET", f"{theirs}?{query}"),
        ("GET", f"{path}?{query}"),
        ("GET", f"{victims.upload['url'].removeprefix(door.stack.base_url)}"),
        ("PUT", f"{path}?expires={int(expires) + 9_999_999}&signature={signature}"),
        ("GET", f"{theirs}?expires={expires}&signature={'0' * 64}"),
        ("GET", f"/v1/objects/{victims.job}?{query}"),
        ("GET", f"{path}/../../../{victims.upload['key']}?{query}"),
        ("GET", f"/v1/objects/{quote(victims.upload['key'], safe='')}?{query}"),
        ("GET", f"/v1/objects/victim/outputs/{victims.job}.json?{query}"),
        ("GET", f"/v1/objects/.signing-key?{query}"),
        ("GET", f"/v1/objects/%2e%2e/%2e%2e/run/dapr.secret?{query}"),
    ]
    for method, target in tried:
        connection = door.connect()
        connection.request(method, target, b"{}" if method == "PUT" else None)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        assert answer.status in (403, 404, 422), (method, target, answer.status, text)
        assert SECRET not in text
    note(f"{len(tried)} x 403, 404 or 422")


@attempt("names another's upload, or a path, as input_ref", layer="keys have one form, which names the owner")
def test_another_tenants_upload_as_input(door: Door, victims: Victims, note: Noted) -> None:
    key = victims.upload["key"]
    names = [key, f"../{key}", f"hostile/../{key}", f"hostile/uploads/../../{key}", f"/{key}", key.upper(), quote(key, safe=""),
             f"victim/outputs/{victims.job}.json", f"victim/inputs/{victims.job}.json", ".signing-key", "", "\u202e" + key, f"{key}\n", f"{key}#", "a/b/c?d"]  # fmt: skip
    for name in names:
        answer = door.call("POST", "/v1/engines/obeys/jobs", {"input_ref": name})
        assert answer.status in (404, 422), (name, answer)
        assert not answer.body["retryable"], (name, answer)
    note(f"{len(names)} x 404 or 422")


@attempt("replays another's idempotency key", layer="keys belong to their tenant")
@attempt("repeats another's event by its id and source", layer="events belong to their tenant")
def test_idempotency_keys_and_events_do_not_meet_those_of_another_tenant(
    door: Door, victims: Victims, note: Noted
) -> None:
    again = door.call("POST", "/v1/engines/obeys/jobs", {"input": {}}, Idempotency_Key=victims.key)
    assert (again.status, again.body["engine"]) == (202, "shared--obeys")
    assert again.body["id"] != victims.job
    event = {"specversion": "1.0", "id": "same", "source": "/same", "type": "any", "engineid": "obeys", "data": {}}
    ids = set()
    for tenant in (VICTIM, HOSTILE):
        answer = door.call("POST", "/v1/events", event, tenant, Content_Type="application/cloudevents+json")
        assert answer.status == 202, answer
        ids.add(answer.body["id"])
    assert len(ids) == 2
    note("new jobs of the hostile tenant's own")


FORGED = {
    "tenantid": VICTIM,
    "engineid": "victim--private",
    "attempt": 7,
    "engineversion": "v9",
    "correlationid": "x",
    "expirytime": "2000-01-01T00:00:00Z",
}


@attempt(
    "forges tenantid, attempt and engineid in an event, of the platform's own types as well",
    layer="the key says who it is",
)
@pytest.mark.parametrize("kind", ["any", "dev.enginehouse.job.requested.v1", "dev.enginehouse.job.completed.v1"])
def test_events_that_forge_the_platforms_own(door: Door, victims: Victims, kind: str, note: Noted) -> None:
    event = {"specversion": "1.0", "id": victims.job, "source": "/gateway", "subject": victims.job, "type": kind, "data": {"input": {}, "status": "failed", "engine": "obeys"}}  # fmt: skip
    content_type = "application/cloudevents+json"
    answer = door.call("POST", "/v1/events", {**event, **FORGED}, Content_Type=content_type)
    assert answer.status in (404, 422), answer
    owned = {name: value for name, value in FORGED.items() if name != "engineid"}
    answer = door.call("POST", "/v1/events", {**event, **owned, "engineid": "obeys"}, Content_Type=content_type)
    evidence = f"another's engine: 404 or 422; the rest: {answer.status}"
    if answer.status == 202:
        assert answer.body["id"] != victims.job
        assert door.call("GET", f"/v1/jobs/{answer.body['id']}", tenant=VICTIM).status == 404
    victims_job = door.call("GET", f"/v1/jobs/{victims.job}", tenant=VICTIM).body
    assert (victims_job["status"], victims_job["output"]) == ("succeeded", SECRET)
    note(evidence)


def _raw(door: Door, path: str, *headers: str, body: bytes = b"", method: str = "GET") -> bytes:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: gateway", "Connection: close", *headers])
    return door.send(head.encode() + b"\r\n\r\n" + body)


@attempt("claims by headers to be another tenant, the gateway or a proxy", layer="only the key counts")
def test_headers_that_claim_to_be_another_tenant(door: Door, victims: Victims, note: Noted) -> None:
    path, mine, theirs = f"/v1/jobs/{victims.job}", f"Authorization: Bearer {door.key()}", "Authorization: Bearer x"
    claims = {
        "two Authorization headers": [mine, theirs],
        "dapr-* headers": [mine, "dapr-caller-app-id: gateway", "dapr-api-token: x", f"dapr-tenant: {VICTIM}"],
        "X-Forwarded-*": [
            mine,
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-User: victim",
            "X-Original-URL: /healthz/live",
        ],
        "X-HTTP-Method-Override": [
            mine,
            "X-HTTP-Method-Override: OPTIONS",
            f"X-Tenant: {VICTIM}",
            f"tenantid: {VICTIM}",
        ],
        "a folded header": [mine, " x: y"],
        "a cookie": [mine, f"Cookie: tenant={VICTIM}; key={VICTIM}"],
        "no key": ["Connection: keep-alive, Authorization"],
    }
    for claim, headers in claims.items():
        answer = _raw(door, path, *headers)
        assert answer.split(b" ")[1] in (b"400", b"401", b"404"), (claim, answer)
        assert SECRET.encode() not in answer
    note(f"{len(claims)} x 400, 401 or 404")


@attempt("smuggles a request in another by lengths and codings", layer="contradictions are refused")
def test_requests_hidden_in_others(door: Door, note: Noted) -> None:
    inner = b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n"  # It would be answered, whoever asks.
    auth = f"Authorization: Bearer {door.key()}"
    tried = [
        (b"0\r\n\r\n", [f"Content-Length: {len(inner) + 5}", "Transfer-Encoding: chunked"]),
        (b"0\r\n\r\n", ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"]),
        (b"0\r\n\r\n", ["Transfer-Encoding:\x0bchunked"]),
        (b"", ["Content-Length: 0", f"Content-Length: {len(inner)}"]),
        (b"", ["Content-Length: +0"]),
    ]
    for body, headers in tried:
        head = "\r\n".join(
            ["POST /v1/jobs HTTP/1.1", "Host: gateway", auth, *headers, "Content-Type: application/json"]
        )
        answer = door.send(head.encode() + b"\r\n\r\n" + body + inner)
        assert answer.startswith(b"HTTP/1.1 400 "), (headers, answer)
        assert answer.count(b"HTTP/1.1") == 1, (headers, answer)
    note(f"{len(tried)} x one 400, and the connection is closed")


@attempt("sends its key in a chunked trailer", layer="trailers are no headers")
def test_a_key_in_a_trailer(door: Door, note: Noted) -> None:
    body = b'b\r\n{"input":1}\r\n0\r\nAuthorization: Bearer ' + door.key().encode() + b"\r\n\r\n"
    headers = ("Transfer-Encoding: chunked", "Content-Type: application/json", "Trailer: Authorization")
    answer = _raw(door, "/v1/engines/obeys/jobs", *headers, body=body, method="POST")
    note(answer.split(b"\r\n")[0].decode())
    assert answer.split(b" ")[1] in (b"400", b"401"), answer


@attempt("makes the operators' calls", layer="an administrator's key")
@attempt(
    "calls what only the gateway's sidecar may: completions, dead letters, subscriptions",
    layer="a listener of its own on loopback",
)
def test_the_operators_calls(door: Door, note: Noted) -> None:
    assert door.call("GET", "/v1/dead-letters?unparsable=true").status == 403
    for what in ("quarantine", "purge"):
        answer = door.call(
            "POST", f"/v1/engines/shared--obeys/{what}", {"reason": "mine"} if what == "quarantine" else None
        )
        assert answer.status in (403, 404), answer
    for path in (
        "/completions",
        "/dead-letters",
        "/requests/victim",
        "/v1.0/metadata",
        "/dapr/subscribe",
        "/dapr/config",
    ):
        assert door.call("POST", path, {}).status == 404, path
    note("403 and 404")


@attempt("names engines by paths, patterns, other letters", layer="names have one form")
def test_names_and_paths_that_lead_elsewhere(door: Door, note: Noted) -> None:
    names = ["..", "../victim--private", "victim--private/../../jobs", "%2e%2e", "..%2f..%2fvictim--private", "victim--private%00", "victim--private%0a",
             "VICTIM--PRIVATE", "victim%2d%2dprivate", "victim---private", "\u2174ictim--private", "\u202eprivate", "{engine}", "*", "a" * 5_000, "-", "__proto__", "none"]  # fmt: skip
    for name in names:
        safe = quote(name, safe="%/.*{}-_")
        for method, path, body in (
            ("GET", f"/v1/engines/{safe}", None),
            ("POST", f"/v1/engines/{safe}/jobs", {"input": 1}),
        ):
            answer = door.call(method, path, body)
            assert 400 <= answer.status < 500, (path, answer)
            assert not answer.body["retryable"], (path, answer)
    note(f"{2 * len(names)} x 4xx, none retryable")


@attempt("takes a signed PUT of an output from a dead letter", layer="dead letters hold no signed address")
def test_an_output_written_after_the_end(door: Door, note: Noted) -> None:
    """The engine was handed a signed PUT; its URL is in the job event, which a dead letter must not show."""
    dead = door.call(
        "POST", "/v1/engines/obeys/jobs", {"input": {"do": "fail"}, "retry": {"max_attempts": 1}}, Prefer="wait=20"
    ).body["id"]
    until(lambda: door.call("GET", f"/v1/dead-letters/{dead}").status == 200, "the dead letter is kept")
    for method, path in (("GET", f"/v1/dead-letters/{dead}"), ("GET", f"/v1/jobs/{dead}"), ("GET", "/v1/dead-letters")):
        text = json.dumps(door.call(method, path).body)
        assert "signature=" not in text or "output_url" not in text, text
        assert f"outputs/{dead}" not in text
    note("none found")


INTEGER = "9" * 400


@attempt(
    "sends an integer of 400 digits, on which the way would break", layer="carried untouched, or refused at submit"
)
@pytest.mark.parametrize("where", ["input", "parameters", "event"])
def test_integers_that_the_way_cannot_carry(door: Door, where: str, note: Noted) -> None:
    def letters() -> list[Any]:
        found: list[Any] = door.call("GET", "/v1/dead-letters?unparsable=true", tenant=LOCAL_TENANT).body[
            "dead_letters"
        ]
        return found

    before = letters()
    if where == "event":
        event = '{"specversion":"1.0","id":"%s","source":"/big","type":"any","engineid":"obeys","data":{"n":%s}}'
        answer = door.call(
            "POST",
            "/v1/events",
            (event % (uuid.uuid4(), INTEGER)).encode(),
            Content_Type="application/cloudevents+json",
        )
    else:
        body = '{"input":{"n":%s}}' if where == "input" else '{"input":{},"parameters":{"n":%s}}'
        answer = door.call("POST", "/v1/engines/obeys/jobs", (body % INTEGER).encode())
    evidence = f"{answer.status} at submit"
    if answer.status == 202:
        began = time.monotonic()
        job = door.call("GET", f"/v1/jobs/{answer.body['id']}?wait=8").body
        evidence = f"{job['status']} after {time.monotonic() - began:.1f} s"
        if job["status"] in ("queued", "running"):
            door.purge()
        note(evidence)
        assert job["status"] == "succeeded", job
    else:
        note(evidence)
        assert (answer.status, answer.body["retryable"]) == (422, False), answer
    assert letters() == before, "a job that was accepted became a dead letter without an owner"
