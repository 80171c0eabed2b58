"""Text that a column, a file name or JSON cannot hold gets one clear refusal of its kind, by each way and on each database."""

import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import pytest_asyncio
from tests.support.break_ins import attempt
from tests.support.gateway import ECHO, PRIVATE, GatewayWorld, gateway_world
from tests.support.ledger import empty_postgres, sqlite_url
from tests.support.problems import problem_of
from tests.support.proofs import key_of
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import JOB_REQUESTED, DeadLetter, dead_letter_event
from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.objects import upload_key

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayWorld]:
    folder = tmp_path_factory.mktemp("gateway")
    url = sqlite_url(folder)
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url
        await empty_postgres(url)
    (folder / "secrets").mkdir()
    (folder / "secrets" / "acme").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    async with gateway_world(
        folder,
        ledger_url=url,
        objects_url=f"file://{folder}/objects",
        webhook_secrets_dir=folder / "secrets",
        webhook_allow_inside=True,
    ) as made:
        yield made


def client(world: GatewayWorld, path: str) -> httpx2.AsyncClient:
    return world.client("admin" if is_for_operators(path) else "acme")


def is_for_operators(path: str) -> bool:
    return any(word in path for word in ("/quarantine", "/resume", "/purge"))


# The places of text: taken from the OpenAPI document, so that a new route, parameter or field is swept as well.

TEXTS = ["\x00", "a\x00b", "\x01", "\x7f", "\x85", "\u2028", "\ufeff", "\uffff", "😀", "\u202e", "..", "%00", "x" * 600]
RAW = [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"%FF", b"%ED%A0%80", b"%zz", b"\xe9", b'"', b""]
PLACES = {
    **{"engine": ECHO, "job_id": new_job_id(), "letter_id": new_job_id()},
    **{"path": "extra", "tenant": "acme", "model": ECHO, "version": "v1"},
}
AWAY = {"ENGINE_UNAVAILABLE", "ENGINE_ASLEEP"}
"""What calls of an engine's own endpoints are told here, where no engine runs."""


def nasty_requests(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each operation with each nasty text in each of its places."""
    for path, operations in document["paths"].items():
        # Another engine than that of all jobs is quarantined, so that these jobs need not wait.
        usual = path.format(**{**PLACES, "engine": PRIVATE if is_for_operators(path) else ECHO})
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                yield from ((method, *placed) for placed in in_parameter(parameter, path, usual))
            content = operation.get("requestBody", {}).get("content", {})
            for kind, media in content.items():
                fields = media["schema"].get("properties", {})
                for field, text in ((field, text) for field in fields for text in TEXTS):
                    body = {field: f"http://127.0.0.1:9/{text}" if field == "webhook" else text}
                    whole = {"input": 1, "engine": "echo", **body} if path.startswith("/v1/jobs") else body
                    yield method, usual, {"content": json.dumps(whole), "headers": {"Content-Type": kind}}


def in_parameter(parameter: dict[str, Any], path: str, usual: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name, place = parameter["name"], parameter["in"]
    escaped = [quote(text.encode()) for text in TEXTS] + [quote(raw) for raw in RAW if raw]
    if place == "path":
        yield from ((path.format(**{**PLACES, name: text}), {}) for text in escaped)
    elif place == "query":
        yield from ((f"{usual}?{name}={text}", {}) for text in escaped)
    else:
        values = RAW + [text.encode() for text in TEXTS]
        yield from ((usual, {"headers": [(name.encode(), value)]}) for value in values)


@attempt("sends text that breaks a part in any place of any call", layer="text is checked at the door")
async def test_no_text_in_any_place_of_any_call_is_a_fault_of_the_gateway(world: GatewayWorld) -> None:
    seen = set()
    for method, path, request in nasty_requests(world.app.openapi()):
        if path.startswith("/healthz") or path.startswith("/metrics"):
            continue
        if method == "post" and "content" not in request and "/jobs" in path and "/jobs/" not in path:
            request = {**request, "json": {"input": 1}}
        answer = await client(world, path).request(method, path, **request)
        if answer.status_code == 503 and ("/call/" in path or path.endswith("/ready")):
            assert answer.json().get("code") in (None, *AWAY)
            continue
        assert answer.status_code < 500, (method, path, request, answer.text)
        if answer.status_code >= 400 and path.startswith("/v2"):
            assert set(answer.json()) == {"error"}
        elif answer.status_code >= 400:
            said = problem_of(answer, answer.status_code)
            assert said["code"] == "JOB_NOT_FINAL" or not said["retryable"], (method, path, request, said)
            seen.add(said["code"])
    assert {"INVALID_REQUEST", "INVALID_HEADER", "ENGINE_DOES_NOT_EXIST"} <= seen


# The forms of bodies.

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "engineid": "echo"}
BINARY = {f"ce-{name}": value for name, value in EVENT.items()}


def bodies(value: str) -> dict[str, tuple[str, dict[str, str], str]]:
    """Return every way to send the JSON `value`: path, headers and body."""
    plain = {"Content-Type": "application/json"}
    event = json.dumps({**EVENT, "id": new_job_id()})[:-1] + f', "data": {value}}}'
    return {
        "submit": ("/v1/jobs", plain, f'{{"engine": "echo", "input": {value}}}'),
        "submit to an engine": ("/v1/engines/echo/jobs", plain, f'{{"input": {value}}}'),
        "batch": ("/v1/jobs/batch", plain, f'{{"jobs": [{{"engine": "echo", "input": {value}}}]}}'),
        "structured event": ("/v1/events", {"Content-Type": STRUCTURED}, event),
        "batch of events": ("/v1/events", {"Content-Type": BATCH}, f"[{event}]"),
        "binary event": ("/v1/events", {**plain, **BINARY, "ce-id": new_job_id()}, value),
    }


WAYS = list(bodies("1"))
FORMS: dict[str, tuple[Callable[[str], bytes], dict[str, str], str]] = {
    "UTF-16": (lambda text: text.encode("utf-16"), {}, "UTF-16"),
    "UTF-16 without a mark": (lambda text: text.encode("utf-16-le"), {}, "UTF-16"),
    "UTF-32": (lambda text: text.encode("utf-32"), {}, "UTF-32"),
    "gzip that nothing names": (lambda text: gzip.compress(text.encode()), {}, "gzip"),
    "gzip": (lambda text: gzip.compress(text.encode()), {"Content-Encoding": "gzip"}, "Content-Encoding is 'gzip'"),
    "br": (lambda text: text.encode(), {"Content-Encoding": "br"}, "Content-Encoding is 'br'"),
    "a charset": (lambda text: text.encode("latin-1"), {"charset": "ISO-8859-1"}, "charset 'ISO-8859-1'"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", FORMS)
async def test_a_body_in_another_encoding_is_refused_by_its_name(world: GatewayWorld, way: str, form: str) -> None:
    path, headers, text = bodies('{"text": "abcdefgh"}')[way]
    encode, more, says = FORMS[form]
    charset = "".join(f"; charset={value}" for name, value in more.items() if name == "charset")
    headers = {**headers, **more, "Content-Type": headers["Content-Type"] + charset}
    answer = await world.client().post(path, content=encode(text), headers=headers)
    assert says in problem_of(answer, 415, "UNSUPPORTED_MEDIA_TYPE")["detail"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_byte_order_mark_is_skipped(world: GatewayWorld, way: str) -> None:
    path, headers, text = bodies('{"text": "é\\u0000"}')[way]
    answer = await world.client().post(path, content=b"\xef\xbb\xbf" + text.encode(), headers=headers)
    assert answer.status_code == 202, answer.text
    accepted = answer.json()
    job_id = accepted["jobs"][0]["id"] if "jobs" in accepted else accepted["id"]
    job = await world.until_status(job_id, Status.SUCCEEDED)
    assert job["input"] == {"text": "é\x00"}


FAULTS = {
    "a lone surrogate": (r'{"a": [{"text": "\ud800"}]}', "a[0].text: JSON cannot hold a lone surrogate (\\ud800)"),
    "a lone surrogate as a name": (r'{"a": {"\udfff": 1}}', "a: JSON cannot hold a lone surrogate in the name"),
    "NaN": ('{"a": [1, NaN]}', "a[1]: JSON cannot hold NaN"),
    "Infinity": ('{"a": -Infinity}', "a: JSON cannot hold Infinity"),
    "a number too large": ('{"a": {"b": 1e400}}', "a.b: JSON cannot hold Infinity, or a number this large"),
    "129 levels": ("[" * 129 + "]" * 129, "it is nested deeper than 128 levels"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_value_that_json_cannot_hold_is_named_by_its_path(world: GatewayWorld, way: str, fault: str) -> None:
    value, says = FAULTS[fault]
    path, headers, text = bodies(value)[way]
    answer = await world.client().post(path, content=text.encode(), headers=headers)
    said = answer.json()["jobs"][0]["problem"] if answer.status_code == 202 else problem_of(answer, 422)
    assert (said["code"], said["retryable"]) == ("NOT_JSON", False)
    assert says in said["detail"]


async def test_the_place_of_a_fault_is_in_the_callers_own_text(world: GatewayWorld) -> None:
    path, headers, _ = bodies("1")["binary event"]
    answer = await world.client().post(path, content=b'{"a": tru}', headers=headers)
    assert "line 1 column 10" in problem_of(answer, 422, "NOT_JSON")["detail"]
    event = json.dumps({**EVENT, "type": JOB_REQUESTED, "data": {"input": 1, "inptu": 2}})
    answer = await world.client().post("/v1/events", content=event, headers={"Content-Type": STRUCTURED})
    assert "data: inptu: there is no such field; did you mean 'input'?" in problem_of(answer, 422)["detail"]


# Headers that become data.

ENCODED = [b"x%FF", b"x%FE", b"x%", b"x%4", b"x%ED%A0%80", b"x%C0%80", b"x%00", b"x%0A", b"x\xff"]


def binary(**more: bytes) -> dict[bytes, bytes]:
    """Return the headers of a binary event; `more` gives attributes."""
    attributes = {f"ce-{name}".encode(): value.encode() for name, value in EVENT.items()}
    given = {f"ce-{name}".encode(): value for name, value in more.items()}
    return {b"content-type": b"application/json", **attributes, **given}


@pytest.mark.parametrize("value", ENCODED)
@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "engineid", "correlationid"])
async def test_an_attribute_that_is_not_utf8_in_percent_encoding_is_refused(
    world: GatewayWorld, name: str, value: bytes
) -> None:
    before = await world.stored()
    answer = await world.client().post("/v1/events", content=b"1", headers=binary(**{name: value}))
    assert f"ce-{name}" in problem_of(answer, 400, "INVALID_HEADER")["detail"]
    assert await world.stored() == before


async def test_an_attribute_given_twice_is_refused(world: GatewayWorld) -> None:
    headers = [*BINARY.items(), ("ce-id", "2"), ("Content-Type", "application/json")]
    answer = await world.client().post("/v1/events", content=b"1", headers=headers)
    assert "ce-id" in problem_of(answer, 400, "INVALID_HEADER")["detail"]


async def test_the_same_text_in_two_ways_of_writing_is_one_event_and_other_bytes_are_another(
    world: GatewayWorld,
) -> None:
    ids = []
    for written in (b"h%C3%A9", "hé".encode(), b'"h\xc3\xa9"', b"h%65", b"h%2565"):
        headers = binary(source=b"/written", id=written)
        answer = await world.client().post("/v1/events", content=b"1", headers=headers)
        ids.append(answer.json()["id"])
    assert ids[0] == ids[1] == ids[2]
    assert len({ids[0], ids[3], ids[4]}) == 3


async def test_an_idempotency_key_is_utf8_or_refused(world: GatewayWorld) -> None:
    async def submit(key: bytes) -> httpx2.Response:
        return await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={b"Idempotency-Key": key})

    same = [(await submit("schlüssel".encode())).json()["id"] for _ in range(2)]
    assert same[0] == same[1]
    for wrong in (b"\xff", b"\xfe", b"a\x00", b"a\tb"):
        assert "Idempotency-Key" in problem_of(await submit(wrong), 400, "INVALID_HEADER")["detail"]


# Uploads, dead letters and topics.


@attempt("names an upload by other spellings of its key", layer="keys have one form")
@pytest.mark.parametrize(
    "key", ["acme/uploads/a\x01b", "acme/uploads/ ", "acme/uploads/a//b", "acme/uploads/\ud7ff", "acme/uploads/*.json"]
)
async def test_a_strange_key_of_an_upload_names_no_upload(world: GatewayWorld, key: str) -> None:
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input_ref": key})
    assert "input_ref" in problem_of(answer, 404, "UPLOAD_DOES_NOT_EXIST")["detail"]


async def test_a_compressed_upload_is_refused_where_the_gateway_takes_it(world: GatewayWorld) -> None:
    assert world.gateway.objects is not None
    url = await world.gateway.objects.sign("PUT", upload_key("acme", is_json=True), 4e9)
    path = url.partition("/v1/")[1] + url.partition("/v1/")[2]
    answer = await world.client().put(path, content=b"x", headers={"Content-Encoding": "gzip"})
    problem_of(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_dead_letter_with_a_null_character_is_kept(world: GatewayWorld) -> None:
    letter = DeadLetter(reason="UNPARSABLE\x00", event="a\x00b")
    body = dead_letter_event(key_of(ECHO), ECHO, "e", letter)
    await world.runner.sidecar.publish(names.jobs_component(ECHO), names.DEAD_LETTERS_TOPIC, body)

    async def kept() -> bool:
        found = (await world.client("admin").get("/v1/dead-letters?unparsable=true")).json()["dead_letters"]
        return [letter["reason"] for letter in found] == ["UNPARSABLE\ufffd"]

    await until_async(kept)


@attempt("publishes an event that stops those behind it", layer="refused for good")
@pytest.mark.parametrize("event", [b'{"id": "a\\u0000"}', b"\xff", json.dumps({**EVENT, "engineid": "a\x00"}).encode()])
async def test_an_event_of_a_topic_that_no_column_can_hold_is_refused_for_good(
    world: GatewayWorld, event: bytes
) -> None:
    assert await world.gateway.events.deliver(event, "acme")
