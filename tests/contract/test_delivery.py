"""The delivery listener lets deliveries of the app's own sidecar in, and nothing else."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.sidecar.delivery import MAX_EVENT_BYTES, delivery_app

TOKEN = "t" * 32


class Receiver:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.acknowledge = True
        self.healthy = True

    async def __call__(self, body: bytes) -> bool:
        self.bodies.append(body)
        return self.acknowledge


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def http(receiver: Receiver) -> AsyncIterator[httpx2.AsyncClient]:
    app = delivery_app({"/jobs": receiver}, TOKEN, lambda: receiver.healthy)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://app", headers={"dapr-api-token": TOKEN}
    ) as client:
        yield client


async def test_a_delivery_is_acknowledged_or_asked_for_again(http: httpx2.AsyncClient, receiver: Receiver) -> None:
    answer = await http.post("/jobs", content=b"anything at all")
    assert (answer.status_code, answer.json()) == (200, {"status": "SUCCESS"})
    receiver.acknowledge = False
    answer = await http.post("/jobs", content=b"")
    assert (answer.status_code, answer.json()) == (200, {"status": "RETRY"})
    assert receiver.bodies == [b"anything at all", b""]


@pytest.mark.parametrize(
    "headers",
    [
        {"dapr-api-token": ""},
        {"dapr-api-token": TOKEN[:-1]},
        {"dapr-api-token": TOKEN + "x"},
        {"dapr-api-token": "é".encode("latin-1")},
        {"dapr-caller-app-id": "gateway"},
        {"dapr-caller-app-id": ""},
    ],
)
async def test_a_stranger_is_refused(http: httpx2.AsyncClient, receiver: Receiver, headers: dict[str, str]) -> None:
    answer = await http.post("/jobs", content=b"{}", headers=headers)
    assert answer.status_code == 403
    assert receiver.bodies == []


async def test_a_call_without_any_token_is_refused(http: httpx2.AsyncClient, receiver: Receiver) -> None:
    del http.headers["dapr-api-token"]
    assert (await http.post("/jobs", content=b"{}")).status_code == 403
    assert receiver.bodies == []


async def test_a_body_beyond_the_bound_is_cut_so_that_it_can_be_dead_lettered(
    http: httpx2.AsyncClient, receiver: Receiver
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * (MAX_EVENT_BYTES // 8)

    answer = await http.post("/jobs", content=chunks())
    assert answer.json() == {"status": "SUCCESS"}
    assert [len(body) for body in receiver.bodies] == [MAX_EVENT_BYTES]


async def test_health_follows_the_app(http: httpx2.AsyncClient, receiver: Receiver) -> None:
    assert (await http.get("/healthz")).status_code == 200
    receiver.healthy = False
    assert (await http.get("/healthz")).status_code == 503


async def test_a_path_with_a_part_gets_what_was_published_as_metadata_and_left_out_of_the_event() -> None:
    got: list[tuple[bytes, dict[str, object]]] = []

    async def deliver(body: bytes, **names: object) -> bool:
        got.append((body, names))
        return True

    app = delivery_app({"/requests/{tenant}": deliver}, TOKEN, lambda: True)
    headers = {"dapr-api-token": TOKEN, "Cloudevent.EngineId": "ocr", "cloudevent.type": "t", "pubsubname": "p"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as client:
        assert (await client.post("/requests/acme", content=b"1", headers=headers)).json() == {"status": "SUCCESS"}
    assert got == [(b"1", {"tenant": "acme", "dropped": {"engineid": "ocr"}})]


@pytest.mark.parametrize("token", ["", "short"])
def test_a_weak_token_refuses_to_start(token: str) -> None:
    with pytest.raises(UnsafeSettings):
        delivery_app({}, token, lambda: True)
