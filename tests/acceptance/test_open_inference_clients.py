"""Unchanged clients of Triton, KServe and MLServer use engines, and what the protocol's specification says holds.

The clients are wheels: with an empty cache their environments are made in 10 s and 15 s.
"""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.documents import ROOT
from tests.support.environments import make_environment
from tests.support.stack import StackHandle

from enginehouse.contracts.engine import EngineSpec

pytestmark = pytest.mark.timeout(600)

_CLIENTS = {
    "triton.py": "kserve>=0.21\ntritonclient[http,grpc]>=2.73\n",
    "of_kserve.py": "kserve>=0.21\ntritonclient[http,grpc]>=2.73\n",
    # The same as in test_ready_made_servers.py, so that the environment is the same.
    "of_mlserver.py": "mlserver>=1.7\nmlserver-sklearn>=1.7\n",
}
PLAIN, TENSORS = "demo--my-engine", "demo--tensors"


@pytest.fixture(scope="module")
def stack(shared_stack: StackHandle, tmp_path_factory: pytest.TempPathFactory) -> StackHandle:
    folder = tmp_path_factory.mktemp("engines")
    shutil.copytree(ROOT / "engine_template", folder / "plain")
    shutil.copytree(ROOT / "tests" / "engines" / "tensors", folder / "tensors")
    spec = folder / "tensors" / "engine.yaml"
    spec.write_text(spec.read_text().replace("tenant: tests", "tenant: demo"))
    shared_stack.deploy_all([folder / "plain", folder / "tensors"])
    return shared_stack


@pytest.mark.parametrize("program", _CLIENTS)
def test_an_unchanged_client_uses_engines(stack: StackHandle, tmp_path: Path, program: str) -> None:
    # As that of a ready-made server: without our package.
    protocol = {"protocol": "open-inference", "open_inference": {"model": "m"}}
    run = {"command": ["python", program], "requirements": "requirements.txt"}
    (tmp_path / "requirements.txt").write_text(_CLIENTS[program])
    spec = EngineSpec.model_validate({"tenant": "demo", "name": "client", "run": run, **protocol})
    python = asyncio.run(make_environment(spec, tmp_path)) / "bin" / "python"
    rest, grpc = stack.base_url.removeprefix("http://"), stack.state()["grpc"]
    command = [str(python), str(ROOT / "tests" / "clients" / program), rest, grpc, stack.keys["demo"], PLAIN, TENSORS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-4_000:]


_EXAMPLE: dict[str, Any] = {
    "id": "42",
    "inputs": [
        {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "data": [1, 2, 3, 4]},
        {"name": "input1", "shape": [3], "datatype": "BOOL", "data": [True, False, True]},
    ],
}
"""The request of the specification's example."""


class TestConformance:
    """Each sentence of KServe's specification of the protocol over REST that a client can rely on."""

    def test_the_server_is_live_and_ready(self, stack: StackHandle) -> None:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert stack.call("GET", path).status == 200

    def test_server_metadata_has_a_name_a_version_and_extensions(self, stack: StackHandle) -> None:
        body = stack.call("GET", "/v2").body
        assert [type(body[name]) for name in ("name", "version", "extensions")] == [str, str, list]

    @pytest.mark.parametrize("version", ["", "/versions/v1"])
    @pytest.mark.parametrize("model", [PLAIN, "my-engine"])
    def test_model_metadata_has_all_its_fields(self, stack: StackHandle, model: str, version: str) -> None:
        body = stack.call("GET", f"/v2/models/{model}{version}").body
        assert (body["name"], body["versions"], type(body["platform"])) == (model, ["v1"], str)
        assert body["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [1]}]
        assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in body["outputs"]] == [
            ("words", "INT64", [1]),
            ("longest", "BYTES", [1]),
        ]

    @pytest.mark.parametrize("version", ["", "/versions/v1"])
    def test_a_model_is_ready_under_its_name(self, stack: StackHandle, version: str) -> None:
        answer = stack.call("GET", f"/v2/models/{PLAIN}{version}/ready")
        assert (answer.status, answer.body) == (200, {"name": PLAIN, "ready": True})

    def test_an_answer_names_the_model_its_version_and_the_id_of_the_request(self, stack: StackHandle) -> None:
        body = stack.call("POST", f"/v2/models/{TENSORS}/infer", _EXAMPLE).body
        assert (body["model_name"], body["model_version"], body["id"]) == (TENSORS, "v1", "42")
        assert body["outputs"] == _EXAMPLE["inputs"]

    def test_data_may_be_flat_or_nested(self, stack: StackHandle) -> None:
        nested = {"inputs": [{**_EXAMPLE["inputs"][0], "data": [[1, 2], [3, 4]]}]}
        (output,) = stack.call("POST", f"/v2/models/{TENSORS}/infer", nested).body["outputs"]
        assert (output["shape"], output["datatype"]) == ([2, 2], "UINT32")

    def test_without_outputs_all_are_answered_and_with_them_those(self, stack: StackHandle) -> None:
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["one three"]}]}
        path = f"/v2/models/{PLAIN}/infer"
        assert [output["name"] for output in stack.call("POST", path, body).body["outputs"]] == ["words", "longest"]
        chosen = stack.call("POST", path, {**body, "outputs": [{"name": "longest"}]}).body["outputs"]
        assert chosen == [{"name": "longest", "shape": [1], "datatype": "BYTES", "data": ["three"]}]

    @pytest.mark.parametrize("value", [True, 3, 0.5, "text"])
    def test_parameters_are_texts_numbers_and_truths(self, stack: StackHandle, value: Any) -> None:
        tensor = {**_EXAMPLE["inputs"][0], "parameters": {"own": value}}
        body = {"parameters": {"own": value}, "inputs": [tensor]}
        (output,) = stack.call("POST", f"/v2/models/{TENSORS}/infer", body).body["outputs"]
        assert output["parameters"] == {"own": value}

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "/v2/models/nobody", None),
            ("GET", f"/v2/models/{PLAIN}/versions/v2", None),
            ("GET", "/v2/models/nobody/ready", None),
            ("POST", "/v2/models/nobody/infer", _EXAMPLE),
            ("POST", f"/v2/models/{PLAIN}/infer", {}),
            ("POST", f"/v2/models/{PLAIN.upper()}/infer", _EXAMPLE),
        ],
    )
    def test_a_failure_has_a_status_of_its_own_and_an_error(
        self, stack: StackHandle, method: str, path: str, body: Any
    ) -> None:
        answer = stack.call(method, path, body)
        assert answer.status in (400, 404)
        assert list(answer.body) == ["error"]
        assert isinstance(answer.body["error"], str)
