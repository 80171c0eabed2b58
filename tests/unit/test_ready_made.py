"""What is special to one protocol of ready-made servers: schemas of tensors, routes of calls, expressions."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.servers import SPOKEN, StandIn, spec_of

from enginehouse.checkers import Checkers
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.job import JobErrorCode
from enginehouse.open_inference.bodies import Binary
from enginehouse.open_inference.messages import MESSAGES
from enginehouse.open_inference.rpc import infer_request
from enginehouse.open_inference.tensors import FORMS, NotThisProtocol
from enginehouse.runner.card import build_card
from enginehouse.runner.clients.base import Busy, EngineClient, Prediction
from enginehouse.runner.clients.choose import engine_client
from enginehouse.runner.clients.open_inference_grpc import InferCall, infer_call, read_infer_bytes
from enginehouse.runner.clients.wire import Limits
from enginehouse.runner.outcome import Failed, Rejected, Succeeded

AS_JSON = Binary(default=False, by_name={})
METADATA = {
    "name": "m",
    "inputs": [
        {"name": "image", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [1]},
    ],
    "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}],
}
TENSORS = [name for name in SPOKEN if name.startswith("open-inference")]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_TENSOR = st.fixed_dictionaries(
    {
        "name": st.text(max_size=3),
        "datatype": st.sampled_from(list(FORMS)),
        "shape": st.lists(st.integers(0, 3), max_size=2) | _JSON,
        "data": _JSON,
    },
    optional={"parameters": _JSON},
)
_BODIES = st.fixed_dictionaries(
    {"inputs": st.lists(_TENSOR, max_size=3)}, optional={"id": _JSON, "outputs": _JSON, "parameters": _JSON}
)


@asynccontextmanager
async def served(name: str, spec: EngineSpec | None = None) -> AsyncIterator[tuple[StandIn, EngineClient]]:
    server = StandIn(SPOKEN[name])
    await server.start()
    limits = Limits(predict_max_bytes=512 * 1024, output_max_bytes=256 * 1024)
    client = engine_client(spec or spec_of(server.spoken), server.url, Checkers(), limits, count_jobs=lambda _: None)
    try:
        yield server, client
    finally:
        await client.close()
        await server.stop()


def tensor(name: str = "image", shape: Any = (2, 3), datatype: str = "FP32", data: Any = (1, 2, 3, 4, 5, 6)) -> Any:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data)}


class TestTensors:
    """The Open Inference Protocol."""

    @pytest.mark.parametrize("name", TENSORS)
    async def test_metadata_becomes_schemas_that_fit_into_a_card(self, name: str) -> None:
        async with served(name) as (server, client):
            server.metadata = METADATA
            card = build_card(spec_of(server.spoken), "a", await client.describe())
        fits = jsonschema_rs.validator_for(card.input_schema).is_valid
        label = tensor("label", [1], "BYTES", ["x"])
        assert fits({"inputs": [tensor(), label]})
        assert fits({"inputs": [label]}), "metadata does not say which inputs are optional"
        assert fits({"inputs": [tensor(shape=[7, 3])], "id": "1", "outputs": [{"name": "score"}]})
        wrong: list[Any] = [
            {},
            {"inputs": []},
            {"inputs": [tensor("other")]},
            {"inputs": [tensor(shape=[2, 4])]},
            {"inputs": [tensor(shape=[6])]},
            {"inputs": [tensor(datatype="INT8")]},
            {"inputs": [{**tensor(), "data": 1}]},
            {"inputs": [tensor(), tensor(), tensor()]},
        ]
        assert not [value for value in wrong if fits(value)]
        assert jsonschema_rs.is_valid(card.output_schema, {"outputs": [{"name": "score"}]})
        assert not jsonschema_rs.is_valid(card.output_schema, {"outputs": [{"name": "other"}]})

    @pytest.mark.parametrize("name", TENSORS)
    async def test_without_metadata_every_infer_request_passes(self, name: str) -> None:
        async with served(name) as (_, client):
            described = await client.describe()
        if described.input_schema:
            assert jsonschema_rs.is_valid(described.input_schema, {"inputs": [tensor("any")]})

    @pytest.mark.parametrize("name", TENSORS)
    async def test_the_job_fills_in_its_id_and_parameters(self, name: str) -> None:
        async with served(name) as (server, client):
            body = {"inputs": [tensor()], "parameters": {"a": 1}}
            await client.predict(Prediction("job-1", body, parameters={"a": 2, "b": True}))
            (sent,) = server.bodies
        if isinstance(sent, dict):
            assert (sent["id"], sent["parameters"]) == ("job-1", {"a": 1, "b": True})
        else:
            assert (sent.id, sent.parameters["a"].int64_param, sent.parameters["b"].bool_param) == ("job-1", 1, True)

    @pytest.mark.parametrize("name", TENSORS)
    @pytest.mark.parametrize("value", [1, {}, {"inputs": 1}])
    async def test_what_is_no_infer_request_does_not_reach_the_server(self, name: str, value: Any) -> None:
        async with served(name) as (server, client):
            reply = await client.predict(Prediction("job-1", value))
            assert isinstance(reply, Rejected)
            assert "inputs" in reply.message
            assert not server.bodies

    @pytest.mark.parametrize(
        ("reason", "kind"),
        [("no room", Busy), ("SERVER: Received message larger than max (600 vs. 500)", Rejected)],
    )
    async def test_what_a_server_says_of_itself_is_no_large_answer(self, reason: str, kind: type[Any]) -> None:
        async with served("open-inference over gRPC") as (server, client):
            server.deed, server.reason = 429, reason
            reply = await client.predict(Prediction("job-1", {"inputs": [tensor()]}))
        assert isinstance(reply, kind), reply

    async def test_a_model_and_a_version_are_in_the_route(self) -> None:
        options = {"model": "m", "version": "3"}
        spec = EngineSpec.model_validate(
            {"tenant": "acme", "name": "one", "protocol": "open-inference", "open_inference": options}
        )
        async with served("open-inference", spec) as (server, client):
            await client.predict(Prediction("job-1", {"inputs": [tensor()]}))
            assert server.paths == ["/v2/models/m/versions/3/infer"]
            server.missing = {"/v2/models/m/versions/3/ready"}
            assert "/v2/models/m/versions/3/ready" in ((await client.health()).fault or "")

    @pytest.mark.parametrize("datatype", FORMS)
    def test_every_datatype_keeps_its_values(self, datatype: str) -> None:
        odd: dict[str, list[Any]] = {"BOOL": [True, False], "BYTES": ["ä", ""]}
        values = odd.get(datatype, [1, 0])
        body = {"inputs": [tensor("x", [2], datatype, values), tensor("half", [2], "FP16", [0.5, 1])]}
        sent = infer_request(body, "m", None)
        assert len(sent.raw_input_contents) == 2, "FP16 has no other form, and either all inputs are raw or none"
        answer = MESSAGES["ModelInferResponse"](model_name="m", raw_output_contents=sent.raw_input_contents)
        answer.outputs.add(name="x", datatype=datatype, shape=[2])
        answer.outputs.add(name="half", datatype="FP16", shape=[2])
        reply = read_infer_bytes(answer.SerializeToString(), 1_000, AS_JSON)
        assert isinstance(reply, Succeeded), reply
        first, second = reply.output["outputs"]
        assert (first["data"], second["data"]) == (values, [0.5, 1])

    @settings(max_examples=400)
    @given(_BODIES, _JSON)
    def test_any_input_is_sent_or_refused(self, body: Any, parameters: Any) -> None:
        given_parameters = parameters if isinstance(parameters, dict) else None
        assert isinstance(infer_call(body, "job-1", given_parameters, "m", None), InferCall | Rejected)

    def test_nested_data_is_flattened(self) -> None:
        sent = infer_request({"inputs": [tensor(data=[[1, 2, 3], [4, 5, 6]])]}, "m", "2")
        assert list(sent.inputs[0].contents.fp32_contents) == [1, 2, 3, 4, 5, 6]
        assert sent.model_version == "2"

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"datatype": "FP8"}, "inputs[0].datatype: must be one of BOOL"),
            ({"shape": [-1]}, "inputs[0].shape: must be a list of whole numbers"),
            ({"data": "x"}, "inputs[0].data: must be a list"),
            ({"data": ["x"]}, "inputs[0].data: a value is not of datatype FP32"),
            ({"datatype": "INT8", "data": [10**20]}, "inputs[0].data: a value is not of datatype INT8"),
            ({"parameters": {"a": []}}, "inputs[0].parameters.a: must be a text, a number"),
        ],
    )
    def test_a_mistake_names_its_place(self, changed: dict[str, Any], said: str) -> None:
        with pytest.raises(NotThisProtocol) as refused:
            infer_request({"inputs": [{**tensor(), **changed}]}, "m", None)
        assert said in str(refused.value)

    @pytest.mark.parametrize(
        ("raw", "datatype"), [(b"\0\0\0", "FP32"), (b"\xff\xff\xff\xffx", "BYTES"), (b"", "COMPLEX")]
    )
    def test_an_answer_that_contradicts_itself_is_refused(self, raw: bytes, datatype: str) -> None:
        answer = MESSAGES["ModelInferResponse"](raw_output_contents=[raw])
        answer.outputs.add(name="x", datatype=datatype)
        reply = read_infer_bytes(answer.SerializeToString(), 1_000, AS_JSON)
        assert isinstance(reply, Failed), reply
        assert reply.code is JobErrorCode.MALFORMED_ANSWER


class TestCalls:
    """OpenAI's API."""

    @pytest.mark.parametrize(
        ("value", "route"),
        [
            ({"messages": [{"role": "user", "content": "x"}]}, "/v1/chat/completions"),
            ({"prompt": "x"}, "/v1/completions"),
            ({"input": ["x"]}, "/v1/embeddings"),
        ],
    )
    async def test_the_input_says_which_route_it_is_for(self, value: Any, route: str) -> None:
        async with served("openai") as (server, client):
            assert isinstance(await client.predict(Prediction("job-1", value)), Succeeded)
            assert server.paths == [route]
            assert server.bodies == [{"model": "m", **value}]
            assert jsonschema_rs.is_valid((await client.describe()).input_schema, value)

    @pytest.mark.parametrize("value", [{}, "x", {"prompt": "x", "input": "y"}])
    async def test_what_is_for_none_or_two_is_refused(self, value: Any) -> None:
        async with served("openai") as (server, client):
            assert isinstance(await client.predict(Prediction("job-1", value)), Rejected)
            assert not server.bodies
            assert not jsonschema_rs.is_valid((await client.describe()).input_schema, value)

    async def test_a_server_without_health_is_asked_for_its_models(self) -> None:
        async with served("openai") as (server, client):
            server.missing = {"/health"}
            assert (await client.health()).ok
            server.missing = {"/health", "/v1/models"}
            assert "/v1/models" in ((await client.health()).fault or "")


def json_spec(**options: Any) -> EngineSpec:
    return EngineSpec.model_validate(
        {"tenant": "acme", "name": "one", "protocol": "json", "json": {"path": "/do", "health": "/up", **options}}
    )


@pytest.mark.asyncio(loop_scope="class")  # What evaluates expressions is a process, and stays for the next test.
class TestExpressions:
    """Any server that speaks JSON."""

    async def test_a_request_sees_the_job(self) -> None:
        spec = json_spec(request="{d: data.x, i: id, p: parameters.top}", result="found", method="PUT")
        async with served("json", spec) as (server, client):
            await client.predict(Prediction("job-1", {"x": [1]}, parameters={"top": 3}))
            assert server.bodies == [{"d": [1], "i": "job-1", "p": 3}]
            assert server.paths == ["/do"]

    @pytest.mark.parametrize(
        ("options", "value", "kind", "said"),
        [
            ({"request": "data.x"}, {}, Rejected, "json.request finds nothing in this input"),
            ({"request": "sum(data)"}, ["x"], Rejected, "json.request cannot be made of this input"),
            ({"result": "other"}, 1, Failed, "json.result finds nothing in it"),
            ({"result": "sum(found)"}, 1, Failed, "json.result cannot be made of it"),
            ({"result": "sum(`[1e308, 1e308]`)"}, 1, Failed, "too large for JSON"),
        ],
    )
    async def test_whose_fault_it_is_that_an_expression_does_not_fit(
        self, options: dict[str, str], value: Any, kind: type[Any], said: str
    ) -> None:
        async with served("json", json_spec(**options)) as (_, client):
            reply = await client.predict(Prediction("job-1", value))
        assert isinstance(reply, kind), reply
        assert said in reply.message

    async def test_an_expression_that_grows_without_end_is_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("enginehouse.runner.clients.elsewhere._CPU_SECONDS", 1.0)
        bomb = " | ".join(["[@,@]"] * 40)
        async with served("json", json_spec(request=f"data | {bomb}")) as (server, client):
            reply = await client.predict(Prediction("job-1", "x"))
            assert isinstance(reply, Rejected), reply
            assert "too much processor time or memory" in reply.message
            assert not server.bodies
        async with served("json", json_spec(result=bomb)) as (_, client):
            reply = await client.predict(Prediction("job-1", "x"))
            assert isinstance(reply, Failed), reply
            assert reply.code is JobErrorCode.MALFORMED_ANSWER


@pytest.mark.parametrize(
    ("field", "value", "raw"), [("fp64_contents", math.inf, "AAAAAAAA8H8="), ("bytes_contents", b"\xff", "AQAAAP8=")]
)
def test_what_json_cannot_hold_is_a_raw_result(field: str, value: Any, raw: str) -> None:
    answer = MESSAGES["ModelInferResponse"](model_name="m")
    output = answer.outputs.add(name="x", datatype="FP64" if field == "fp64_contents" else "BYTES", shape=[1])
    getattr(output.contents, field).append(value)
    reply = read_infer_bytes(answer.SerializeToString(), 1_000, AS_JSON)
    assert isinstance(reply, Succeeded)
    assert reply.output["outputs"][0]["raw"] == raw
