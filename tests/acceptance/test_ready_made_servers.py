"""Ready-made servers are engines without code: MLServer and llama.cpp, deployed as docs/engines.md shows.

Their packages are wheels, installed in 9 s and 13 s with an empty cache; the models are made here.
"""

import asyncio
import http.client
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.support.documents import ROOT, Document
from tests.support.environments import make_environment
from tests.support.stack import StackHandle

from enginehouse.contracts.engine import EngineSpec
from enginehouse.yaml_files import read_yaml

pytestmark = pytest.mark.timeout(600)

_REQUIREMENTS = {
    "iris": "mlserver>=1.7\nmlserver-sklearn>=1.7\n",
    "language": "gguf>=0.19\nxllamacpp>=2026.10\n",
}
_ENGINES = {"iris": ["iris", "iris-grpc"], "language": ["writer", "tokens"]}
_FLOWERS = [5.1, 3.5, 1.4, 0.2, 6.0, 3.0, 5.0, 1.8]


def _folders(into: Path) -> dict[str, Path]:
    """Make the folders of the engines on the page, each as it is shown there."""
    page = Document.read(ROOT / "docs" / "engines.md")
    shown: dict[str, str] = {}
    for block in page.blocks:
        if block.language == "yaml" and "protocol: " in block.text:
            name = next(line.removeprefix("name: ") for line in block.text.splitlines() if line.startswith("name: "))
            shown[name] = block.text
    (settings,) = (block.text for block in page.blocks if block.language == "json" and "mlserver" in block.text)
    (serve,) = (block.text for block in page.blocks if block.language == "python" and "xllamacpp" in block.text)
    made = {}
    for kind, names in _ENGINES.items():
        for name in names:
            folder = made[name] = into / name
            folder.mkdir()
            (folder / "engine.yaml").write_text(shown.pop(name))
            (folder / "requirements.txt").write_text(_REQUIREMENTS[kind])
            if kind == "iris":
                (folder / "model-settings.json").write_text(settings)
            else:
                (folder / "serve.py").write_text(serve)
    assert not shown, "every engine of the page is tried here"
    return made


@pytest.fixture(scope="module")
def stack(shared_stack: StackHandle, tmp_path_factory: pytest.TempPathFactory) -> StackHandle:
    folders = _folders(tmp_path_factory.mktemp("engines"))
    _make_models(folders)
    shared_stack.deploy_all(list(folders.values()))
    return shared_stack


def _make_models(folders: dict[str, Path]) -> None:
    for kind, target in (("iris", "model.joblib"), ("language", "model.gguf")):
        first, *others = (folders[name] for name in _ENGINES[kind])
        environment = asyncio.run(make_environment(read_yaml(EngineSpec, first / "engine.yaml"), first))
        python, maker = environment / "bin" / "python", ROOT / "tests" / "support" / "tiny_models.py"
        subprocess.run([str(python), str(maker), kind, str(first / target)], check=True)
        for other in others:
            shutil.copy(first / target, other / target)


def flowers(shape: list[int], **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "flowers", "shape": shape, "datatype": "FP32", "data": _FLOWERS, **changes}]}


@pytest.mark.parametrize("engine", ["demo--iris", "demo--iris-grpc"])
def test_mlserver_classifies_irises(stack: StackHandle, engine: str) -> None:
    job = stack.submit(engine, flowers([2, 4]))
    assert job["status"] == "succeeded", job
    (output,) = job["output"]["outputs"]
    assert (output["name"], output["datatype"], output["data"]) == ("predict", "INT64", [0, 2])
    assert job["output"]["id"] == job["id"]


@pytest.mark.parametrize("engine", ["demo--iris", "demo--iris-grpc"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (flowers([2, 3]), "input.inputs[0].shape[1]: 4 was expected"),
        (flowers([8]), "input.inputs[0].shape"),
        (flowers([2, 4], datatype="INT64"), 'input.inputs[0].datatype: "FP32" was expected'),
        (flowers([2, 4], name="roses"), "input.inputs[0].name"),
        ({"text": "an iris"}, '"inputs" is a required property'),
    ],
)
def test_the_gateway_refuses_what_does_not_fit_the_metadata(
    stack: StackHandle, engine: str, value: Any, said: str
) -> None:
    answer = stack.call("POST", f"/v1/engines/{engine}/jobs", {"input": value})
    assert (answer.status, answer.body["code"]) == (422, "INVALID_INPUT")
    assert said in answer.body["detail"]


@pytest.mark.parametrize("engine", ["demo--iris", "demo--iris-grpc"])
def test_a_model_that_fails_says_why_in_a_line(stack: StackHandle, engine: str) -> None:
    job = stack.submit(engine, flowers([2, 4], data=_FLOWERS[:5]), retry={"max_attempts": 1})
    assert (job["status"], job["error"]["code"]) == ("failed", "PREDICT_ERROR")
    assert "reshape" in job["error"]["message"]
    assert "Traceback" not in job["error"]["message"]


_CHAT = {"messages": [{"role": "user", "content": "ba be bi"}], "max_tokens": 40, "seed": 3}


def _texts(events: list[tuple[str, Any]]) -> str:
    return "".join(data["text"] for kind, data in events if kind == "output")


def follow(stack: StackHandle, job_id: str) -> list[tuple[str, Any]]:
    """Return the events of a job until its end."""
    parts = urlsplit(stack.base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request("GET", f"/v1/jobs/{job_id}/events", headers={"Authorization": f"Bearer {stack.keys['demo']}"})
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(kinds, data, strict=True))


def test_llama_cpp_chats_and_its_text_streams(stack: StackHandle) -> None:
    at_once = stack.submit("demo--writer", _CHAT)
    assert at_once["status"] == "succeeded", at_once
    assert at_once["output"]["usage"]["completion_tokens"] > 0
    job = stack.submit("demo--writer", {**_CHAT, "stream": True}, wait=0)
    events = follow(stack, job["id"])
    whole = stack.call("GET", f"/v1/jobs/{job['id']}?wait=30").body
    assert whole["status"] == "succeeded", whole
    output, (choice,) = whole["output"], whole["output"]["choices"]
    assert output["object"] == "chat.completion"
    assert output["usage"]["completion_tokens"] == at_once["output"]["usage"]["completion_tokens"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    assert _texts(events) == choice["message"]["content"] != ""
    assert set(choice) == set(at_once["output"]["choices"][0])


def test_llama_cpp_completes_a_prompt_with_parameters_of_the_job(stack: StackHandle) -> None:
    job = stack.submit("demo--writer", {"prompt": "ba be"}, parameters={"max_tokens": 3})
    assert job["status"] == "succeeded", job
    assert job["output"]["usage"]["completion_tokens"] <= 3
    assert "text" in job["output"]["choices"][0]


def test_what_llama_cpp_refuses_is_the_fault_of_the_input(stack: StackHandle) -> None:
    refused = stack.submit("demo--writer", {**_CHAT, "temperature": "hot"})
    assert (refused["status"], refused["error"]["code"]) == ("failed", "INVALID_INPUT")
    answer = stack.call("POST", "/v1/engines/demo--writer/jobs", {"input": {"messages": 5}})
    assert (answer.status, answer.body["code"]) == (422, "INVALID_INPUT")
    assert "input.messages" in answer.body["detail"]


def test_expressions_make_an_engine_of_any_route(stack: StackHandle) -> None:
    job = stack.submit("demo--tokens", {"text": "ba be"})
    assert job["status"] == "succeeded", job
    assert job["output"]["count"] == len(job["output"]["tokens"]) > 0
    wrong = stack.submit("demo--tokens", {"text": "ba"}, parameters={"other": 1})
    assert wrong["output"]["count"] > 0, "parameters that no expression names change nothing"
