"""The Open Inference Protocol in front of a gateway, over REST and gRPC: jobs, refusals, bounds, callers that go away."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import scripted_runner
from tests.support.break_ins import attempt
from tests.support.gateway import ECHO, GatewayWorld, gateway_world
from tests.support.scripted_runner import ScriptedRunner
from tests.support.waiting import until_async

from enginehouse.audit.read import Query, read_page
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import JobError, JobErrorCode, Status
from enginehouse.gateway.http.open_inference_errors import JOB_STATUSES
from enginehouse.gateway.inference import infer as inference
from enginehouse.gateway.inference.infer import InferFailed
from enginehouse.gateway.rpc.server import RpcServer
from enginehouse.gateway.rpc.statuses import status_of
from enginehouse.gateway.tenants import limits
from enginehouse.open_inference.messages import MESSAGES, SERVICE

_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_INFER = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hi"]}]}
TENSORS = "acme--tensors"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    cards: dict[str, dict[str, Any]] = {
        ECHO: {"input_schema": _SCHEMA, "version": "v7"},
        TENSORS: {"protocol": "open-inference"},
    }
    objects = (tmp_path / "objects").as_uri()
    async with gateway_world(
        tmp_path, cards=cards, engines=(ECHO, TENSORS, "umbra--private"), objects_url=objects
    ) as made:
        made.runners[TENSORS].answer = answer_inputs
        yield made


async def answer_inputs(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Answer as a server of tensors that gives its inputs back."""
    await runner.end(event, version="v1", output={"model_name": "m", "outputs": event.data.input["inputs"]})
    return True


def answer_large(world: GatewayWorld) -> scripted_runner.Answer:
    """Answer as a server of tensors whose answer is too large for the job's record."""

    async def answer(runner: ScriptedRunner, event: HandedJob) -> bool:
        assert event.data.objects is not None
        assert event.data.objects.output_ref is not None
        assert world.gateway.objects is not None
        output = {"outputs": [{"name": "y", "shape": [100_000], "datatype": "FP64", "data": [0.25] * 100_000}]}
        await world.gateway.objects.put(event.data.objects.output_ref, json.dumps(output).encode())
        await runner.end(event, output_ref=event.data.objects.output_ref)
        return True

    return answer


async def beat(world: GatewayWorld) -> None:
    """Let acme's engine `echo` show a healthy worker."""
    await world.runner.beat()
    for engine in world.gateway.catalogue:
        engine.workers_read_at = 0


class Rpc:
    """A client of the gateway over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self._channel, self._key = channel, key

    async def raw(self, method: str, message: bytes, **options: Any) -> bytes:
        call: Any = self._channel.unary_unary(f"/{SERVICE}/{method}")
        metadata = (("authorization", f"Bearer {self._key}"),) if self._key else ()
        answer: bytes = await call(message, metadata=metadata + options.pop("more", ()), timeout=20, **options)
        return answer

    async def call(self, method: str, **fields: Any) -> Any:
        answer = await self.raw(method, MESSAGES[f"{method}Request"](**fields).SerializeToString())
        return MESSAGES[f"{method}Response"].FromString(answer)

    async def refused(self, method: str, message: bytes = b"", **options: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.raw(method, message, **options)
        return refused.value


@asynccontextmanager
async def over_rpc(world: GatewayWorld, key: str | None = None) -> AsyncIterator[Rpc]:
    @asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        yield

    server = RpcServer(world.gateway, "127.0.0.1", 0)
    async with server.within(nothing()), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Rpc(channel, world.keys["acme"] if key is None else key)


def infer_message(model: str = "echo", raw: bool = False, **fields: Any) -> bytes:
    message = MESSAGES["ModelInferRequest"](model_name=model, **fields)
    tensor = message.inputs.add(name="text", shape=[1], datatype="BYTES")
    if raw:
        message.raw_input_contents.append(b"\2\0\0\0hi")
    else:
        tensor.contents.bytes_contents.append(b"hi")
    return bytes(message.SerializeToString())


def test_every_end_of_a_job_has_a_status() -> None:
    assert set(JobErrorCode) <= JOB_STATUSES.keys()
    assert status_of(InferFailed("1", JobErrorCode.TRIAL_ENDED, "")) is grpc.StatusCode.NOT_FOUND


class TestRest:
    async def test_an_infer_is_a_job(self, world: GatewayWorld) -> None:
        body = {**_INFER, "id": "42", "parameters": {"top": 3, "binary_data_output": False}}
        answer = await world.client().post("/v2/models/echo/infer", json=body)
        assert answer.status_code == 200, answer.text
        found, (event,) = answer.json(), world.runner.events
        assert event.data.input == {"text": "hi"}
        assert event.data.parameters == {"top": 3}
        assert (found["model_name"], found["id"], found["parameters"]) == ("echo", "42", {"job_id": event.id})
        assert found["outputs"] == [
            {
                "name": "echo",
                "shape": [1],
                "datatype": "BYTES",
                "data": ['{"text":"hi"}'],
                "parameters": {"content_type": "json"},
            }
        ]
        assert answer.headers["enginehouse-job-id"] == event.id
        assert (await world.job(event.id))["status"] == "succeeded"

    @pytest.mark.parametrize("path", ["/v2/models/acme--echo/versions/v7/infer", "/v2/models/acme--echo/infer"])
    async def test_a_version_may_be_named(self, world: GatewayWorld, path: str) -> None:
        answer = await world.client().post(path, json=_INFER)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_name"] == "acme--echo"

    async def test_tensors_reach_a_server_of_tensors_as_they_are(self, world: GatewayWorld) -> None:
        head = json.dumps(
            {
                "inputs": [
                    {"name": "x", "shape": [2], "datatype": "FP16", "parameters": {"binary_data_size": 4, "a": 1}}
                ],
                "outputs": [{"name": "x", "parameters": {"binary_data": True}}],
                "parameters": {"p": 1},
            }
        ).encode()
        answer = await world.client().post(
            "/v2/models/tensors/infer",
            content=head + struct.pack("<2e", 0.5, float("nan")),
            headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
        )
        (event,) = world.runners[TENSORS].events
        assert event.data.input["inputs"] == [
            {"name": "x", "shape": [2], "datatype": "FP16", "raw": "ADgAfg==", "parameters": {"a": 1}}
        ]
        assert event.data.input["outputs"] == [{"name": "x", "parameters": {"binary_data": True}}]
        assert event.data.input["parameters"] == {"p": 1}
        length = int(answer.headers["inference-header-content-length"])
        assert answer.content[length:] == struct.pack("<2e", 0.5, float("nan"))
        assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"a": 1, "binary_data_size": 4}

    async def test_a_large_tensor_travels_by_reference(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Input or output, and not both at once.
        monkeypatch.setattr(limits, "_HELD_BYTES_OF_TENANT", 300_000)
        world.runners[TENSORS].answer = answer_large(world)
        body = {"inputs": [{"name": "x", "shape": [50_000], "datatype": "INT64", "data": [7] * 50_000}]}
        answer = await world.client().post("/v2/models/tensors/infer", json=body)
        assert answer.status_code == 200, answer.text[:300]
        assert answer.json()["outputs"][0]["data"] == [0.25] * 100_000
        assert world.runners[TENSORS].events[0].data.input is None
        message = MESSAGES["ModelInferRequest"](model_name="tensors")
        message.inputs.add(name="x", shape=[50_000], datatype="INT64").contents.int64_contents.extend([2**40] * 50_000)
        async with over_rpc(world) as rpc:
            found = MESSAGES["ModelInferResponse"].FromString(await rpc.raw("ModelInfer", message.SerializeToString()))
        assert list(found.outputs[0].shape) == [100_000]

    async def test_a_job_whose_answer_finds_no_room_is_named(self, world: GatewayWorld) -> None:
        world.runners[TENSORS].answer = answer_large(world)
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}]}
        with world.gateway.bytes_in_hand.holding("acme") as hold:
            hold(32 * 1024 * 1024)
            answer = await world.client().post("/v2/models/tensors/infer", json=body)
        (event,) = world.runners[TENSORS].events
        assert answer.status_code == 429
        assert f"Job {event.id} succeeded" in answer.json()["error"]

    @pytest.mark.parametrize(
        ("path", "body", "status", "said"),
        [
            ("/v2/models/nope/infer", _INFER, 404, "No engine 'nope'"),
            ("/v2/models/umbra--private/infer", _INFER, 404, "No engine"),
            ("/v2/models/echo/versions/v1/infer", _INFER, 404, "acme--echo has no version 'v1': it serves v7"),
            ("/v2/models/echo/infer", {"inputs": []}, 400, "inputs: must be a list of 1"),
            ("/v2/models/echo/infer", "[", 400, "not JSON"),
            ("/v2/models/echo/infer?x=1", _INFER, 400, "takes no query parameters"),
            ("/v2/models/echo/infer", {"inputs": [{**_INFER["inputs"][0], "name": "words"}]}, 400, "text"),
            (
                "/v2/models/echo/infer",
                {**_INFER, "outputs": [{"name": "nope"}]},
                400,
                "outputs: there is no 'nope'; there are echo",
            ),
            ("/v2/repository/models/echo/load", None, 403, "enginehouse engines deploy"),
            ("/v2/repository/models/echo/unload", None, 403, "enginehouse engines deploy"),
            ("/v2/nothing", _INFER, 404, "there is no such path"),
            ("/v2/health/live", _INFER, 405, "the path takes GET"),
        ],
    )
    async def test_a_refusal_is_an_error_of_the_protocol(
        self, world: GatewayWorld, path: str, body: Any, status: int, said: str
    ) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        answer = await world.client().post(path, content=content)
        assert answer.status_code == status, answer.text
        assert list(answer.json()) == ["error"]
        assert said in answer.json()["error"]

    async def test_an_output_that_the_card_does_not_know_is_refused_before_a_job_runs(self, tmp_path: Path) -> None:
        schema = {"type": "object", "properties": {"echo": {"type": "object"}}}
        async with gateway_world(tmp_path, cards={ECHO: {"output_schema": schema}}) as known:
            answer = await known.client().post("/v2/models/echo/infer", json={**_INFER, "outputs": [{"name": "nope"}]})
            assert (answer.status_code, answer.json()["error"]) == (400, "outputs: there is no 'nope'; there are echo")
            assert not known.runner.events
            right = await known.client().post("/v2/models/echo/infer", json={**_INFER, "outputs": [{"name": "echo"}]})
            assert right.status_code == 200, right.text

    async def test_a_body_that_is_too_large_is_refused(self, tmp_path: Path) -> None:
        async with gateway_world(tmp_path, body_max_bytes=1_000) as small:
            answer = await small.client().post("/v2/models/echo/infer", content=b"x" * 2_000)
            assert (answer.status_code, list(answer.json())) == (413, ["error"])
            async with over_rpc(small) as rpc:
                refused = await rpc.refused("ModelInfer", infer_message(id="x" * 2_000))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_a_call_without_a_key_is_refused(self, world: GatewayWorld) -> None:
        for path in ("/v2/models/echo", "/v2/models/echo/ready"):
            answer = await world.client().get(path, headers={"Authorization": "Bearer wrong"})
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
        for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
            answer = await world.client().get(path, headers={"Authorization": "Bearer wrong"})
            assert answer.status_code == 200

    @pytest.mark.parametrize(
        ("code", "status"), [("INVALID_INPUT", 400), ("PREDICT_ERROR", 502), ("PREDICT_TIMEOUT", 504), ("OTHER", 502)]
    )
    async def test_a_job_that_fails_is_an_error(self, world: GatewayWorld, code: str, status: int) -> None:
        async def fail(runner: ScriptedRunner, event: HandedJob) -> bool:
            await runner.end(event, Status.FAILED, error=JobError(code=code, message="it broke"))
            return True

        world.runner.answer = fail
        answer = await world.client().post("/v2/models/echo/infer", json=_INFER)
        assert (answer.status_code, answer.json()) == (status, {"error": f"{code}: it broke"})
        assert answer.headers["enginehouse-job-id"] == world.runner.events[0].id

    async def test_a_job_that_does_not_end_in_time_is_canceled(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("enginehouse.gateway.http.routes.open_inference.MAX_SECONDS", 0.3)
        world.runner.answer = scripted_runner.never
        answer = await world.client().post("/v2/models/echo/infer", json=_INFER)
        assert answer.status_code == 504, answer.text
        assert answer.json()["error"].startswith(f"{inference.NOT_ENDED}: Job {world.runner.events[0].id} did not end")
        assert (await world.job(world.runner.events[0].id))["status"] == "canceled"

    async def test_with_an_idempotency_key_the_job_goes_on(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("enginehouse.gateway.http.routes.open_inference.MAX_SECONDS", 0.3)
        world.runner.answer = scripted_runner.never
        answers = [
            await world.client().post("/v2/models/echo/infer", json=_INFER, headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [504, 504]
        assert len(world.runner.events) == 1
        assert (await world.job(world.runner.events[0].id))["status"] == "running"

    @pytest.mark.parametrize("key", [None, "again"])
    async def test_the_job_of_a_caller_that_goes_away_is_canceled(self, world: GatewayWorld, key: str | None) -> None:
        world.runner.answer = scripted_runner.never
        gone = asyncio.Event()
        parts = [{"type": "http.request", "body": json.dumps(_INFER).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if parts:
                return parts.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        headers = [(b"authorization", f"Bearer {world.keys['acme']}".encode())]
        headers += [(b"idempotency-key", key.encode())] if key else []
        path = "/v2/models/echo/infer"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        call = asyncio.create_task(
            world.app(scope | {"headers": headers, "client": None, "root_path": "", "scheme": "http"}, receive, send)
        )
        await until_async(lambda: world.runner.events)
        gone.set()
        await call
        await world.until_status(world.runner.events[0].id, Status.RUNNING if key else Status.CANCELED)

    async def test_the_index_lists_what_the_caller_may_use(self, world: GatewayWorld) -> None:
        await beat(world)
        answer = await world.client().post("/v2/repository/index")
        assert {entry["name"]: (entry["version"], entry["state"]) for entry in answer.json()} == {
            ECHO: ("v7", "READY"),
            TENSORS: ("v1", "UNAVAILABLE"),
        }
        answer = await world.client().post("/v2/repository/index", json={"ready": True})
        assert [entry["name"] for entry in answer.json()] == [ECHO]
        assert (await world.client().get("/v2/models/echo/versions/v7/ready")).json() == {"name": "echo", "ready": True}
        assert (await world.client().get("/v2/models/tensors/ready")).status_code == 503

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        body=st.binary(max_size=40)
        | st.recursive(
            st.none() | st.integers() | st.text(max_size=3),
            lambda x: (
                st.lists(x, max_size=3)
                | st.dictionaries(st.sampled_from(["inputs", "name", "shape", "data", "datatype", "x"]), x, max_size=4)
            ),
            max_leaves=9,
        ).map(lambda value: json.dumps(value).encode()),
        length=st.none() | st.sampled_from(["0", "5", "-1", "x", "9" * 30, "\u00b2"]),
        path=st.sampled_from(["/v2/models/echo/infer", "/v2/models/tensors/versions/v1/infer", "/v2/repository/index"]),
    )
    async def test_hostile_bodies_never_break_it(
        self, world: GatewayWorld, body: bytes, length: str | None, path: str
    ) -> None:
        headers = {} if length is None else {b"Inference-Header-Content-Length": length.encode()}
        answer = await world.client().post(path, content=body, headers=headers)
        assert answer.status_code in (200, 400, 415), answer.text


class TestRpc:
    async def test_an_infer_is_a_job(self, world: GatewayWorld) -> None:
        async with over_rpc(world) as rpc:
            for raw in (False, True):
                answer = MESSAGES["ModelInferResponse"].FromString(
                    await rpc.raw("ModelInfer", infer_message(id="42", raw=raw))
                )
                (output,) = answer.outputs
                texts = list(answer.raw_output_contents) or list(output.contents.bytes_contents)
                assert texts == ([b'\x0d\0\0\0{"text":"hi"}'] if raw else [b'{"text":"hi"}'])
                assert (answer.model_name, answer.id) == ("echo", "42")
                assert answer.parameters["job_id"].string_param == world.runner.events[-1].id
        assert world.runner.inputs() == [{"text": "hi"}] * 2

    async def test_each_call_is_in_the_audit_log(self, tmp_path: Path) -> None:
        async with gateway_world(tmp_path, audit_dir=tmp_path / "audit") as world:
            async with over_rpc(world) as rpc:
                await rpc.raw("ModelInfer", infer_message())
                await rpc.refused("ModelReady", MESSAGES["ModelReadyRequest"](name="nobody").SerializeToString())
            async with over_rpc(world, key="") as rpc:
                await rpc.refused("RepositoryIndex")
                await rpc.call("ServerLive")
            job = world.runner.events[-1].id
        found = [one.entry for one in read_page(tmp_path / "audit", Query(action="grpc"), None, 10).entries]
        assert [(one.action, one.outcome, one.by, one.engine, one.job) for one in reversed(found)] == [
            ("gRPC ModelInfer", "ok", "acme", ECHO, job),
            ("gRPC ModelReady", "ENGINE_DOES_NOT_EXIST", "acme", None, None),
            ("gRPC RepositoryIndex", "UNAUTHENTICATED", None, None, None),
        ]

    async def test_shows_the_server_and_its_models(self, world: GatewayWorld) -> None:
        await beat(world)
        async with over_rpc(world) as rpc:
            assert (await rpc.call("ModelReady", name="echo")).ready
            assert not (await rpc.call("ModelReady", name="tensors")).ready
            shown = await rpc.call("ModelMetadata", name="echo", version="v7")
            assert (shown.name, list(shown.versions), shown.inputs[0].name) == ("echo", ["v7"], "text")
            assert [model.name for model in (await rpc.call("RepositoryIndex", ready=True)).models] == [ECHO]
        async with over_rpc(world, key="") as rpc:
            assert (await rpc.call("ServerLive")).live
            assert (await rpc.call("ServerReady")).ready
            assert (await rpc.call("ServerMetadata")).name == "enginehouse"

    @pytest.mark.parametrize(
        ("method", "message", "code", "said"),
        [
            ("ModelInfer", infer_message("nope"), "NOT_FOUND", "No engine 'nope'"),
            ("ModelInfer", infer_message(model_version="v1"), "NOT_FOUND", "it serves v7"),
            ("ModelInfer", b"\xff", "INVALID_ARGUMENT", "cannot be read as a ModelInferRequest"),
            (
                "ModelInfer",
                MESSAGES["ModelInferRequest"](model_name="echo").SerializeToString(),
                "INVALID_ARGUMENT",
                "inputs",
            ),
            ("ModelReady", b"\xff", "INVALID_ARGUMENT", "cannot be read"),
            ("RepositoryModelLoad", b"", "PERMISSION_DENIED", "enginehouse engines deploy"),
            ("ModelStatistics", b"", "UNIMPLEMENTED", ""),
        ],
    )
    async def test_a_refusal_says_why(
        self, world: GatewayWorld, method: str, message: bytes, code: str, said: str
    ) -> None:
        async with over_rpc(world) as rpc:
            refused = await rpc.refused(method, message)
        assert refused.code().name == code
        assert said in (refused.details() or "")

    @attempt("uses or sees another's private engine over gRPC", layer="names resolve to own and shared engines")
    async def test_another_tenants_engine_is_not_there(self, world: GatewayWorld) -> None:
        before = await world.stored()
        async with over_rpc(world, key=world.keys["umbra"]) as rpc:
            calls = {
                "ModelInfer": infer_message(ECHO),
                "ModelReady": MESSAGES["ModelReadyRequest"](name=ECHO).SerializeToString(),
                "ModelMetadata": MESSAGES["ModelMetadataRequest"](name=ECHO).SerializeToString(),
            }
            codes = {method: (await rpc.refused(method, message)).code().name for method, message in calls.items()}
            shown = {model.name for model in (await rpc.call("RepositoryIndex")).models}
        assert codes == dict.fromkeys(calls, "NOT_FOUND")
        assert ECHO not in shown
        assert await world.stored() == before

    async def test_without_a_key_no_message_is_read(self, world: GatewayWorld) -> None:
        async with over_rpc(world, key="") as rpc:
            call: Any = rpc._channel.stream_unary(f"/{SERVICE}/ModelInfer")

            async def nothing() -> AsyncIterator[bytes]:
                await asyncio.Event().wait()
                yield b""

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(nothing(), timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    async def test_compressed_messages_are_refused(self, world: GatewayWorld) -> None:
        async with over_rpc(world) as rpc:
            refused = await rpc.refused("ModelInfer", infer_message(id="x" * 200), compression=grpc.Compression.Gzip)
        assert refused.code() is grpc.StatusCode.UNIMPLEMENTED

    @pytest.mark.parametrize("end", ["cancel", "deadline"])
    async def test_the_job_of_a_caller_that_goes_away_is_canceled(self, world: GatewayWorld, end: str) -> None:
        world.runner.answer = scripted_runner.never
        async with over_rpc(world) as rpc:
            call: Any = rpc._channel.unary_unary(f"/{SERVICE}/ModelInfer")
            metadata = (("authorization", f"Bearer {world.keys['acme']}"),)
            asked = call(infer_message(), metadata=metadata, timeout=20 if end == "cancel" else 1)
            await until_async(lambda: world.runner.events or asked.done())
            if end == "cancel":
                asked.cancel()
            await world.until_status(world.runner.events[0].id, Status.CANCELED)

    async def test_a_job_that_fails_is_a_status(self, world: GatewayWorld) -> None:
        world.runner.answer = scripted_runner.fail
        async with over_rpc(world) as rpc:
            refused = await rpc.refused("ModelInfer", infer_message())
        assert (refused.code(), refused.details()) == (grpc.StatusCode.UNKNOWN, "it broke")
        trailing = dict(refused.trailing_metadata())
        assert (trailing["enginehouse-code"], trailing["enginehouse-job-id"]) == (
            "PREDICT_ERROR",
            world.runner.events[0].id,
        )
