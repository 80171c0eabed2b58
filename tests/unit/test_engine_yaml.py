"""What an author writes into engine.yaml is read as meant, and every mistake is told at once, with its place."""

from decimal import Decimal
from pathlib import Path

import pytest

from enginehouse.contracts.engine import EngineSpec, Resources
from enginehouse.contracts.quantities import parse_quantity
from enginehouse.registry.bundle import ENGINE_FILE, render_engine
from enginehouse.yaml_files import InvalidFile, read_yaml

_OWNER = "tenant: acme\nname: one\n"


_FETCHED = f"{{file: m, from: 's3://b/m', sha256: {'0' * 64}}}"


def _read(folder: Path, text: str) -> EngineSpec:
    (folder / "engine.yaml").write_text(_OWNER + text)
    return read_yaml(EngineSpec, folder / "engine.yaml")


def _mistakes(folder: Path, text: str) -> str:
    with pytest.raises(InvalidFile) as refused:
        _read(folder, text)
    return str(refused.value).removeprefix(str(folder / "engine.yaml"))


def _json(request: str) -> str:
    return f"protocol: json\njson: {{path: /x, request: {request}}}"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1.0", "1.0"), ("1.10", "1.10"), ("2026-01-31", "2026-01-31"), ("007", "007"), ("yes", "yes"), ("'3'", "3")],
)
def test_a_version_is_the_text_that_stands_there(tmp_path: Path, written: str, meant: str) -> None:
    assert _read(tmp_path, f"version: {written}\n").version == meant


def test_numbers_without_quotes_are_read_wherever_a_text_is_wanted(tmp_path: Path) -> None:
    spec = _read(
        tmp_path, "resources: {cpu: 1, memory: 1G}\nrun: {command: [serve, 8], env: {THREADS: 4, FAST: true}}\n"
    )
    assert (spec.resources.cpu, spec.resources.memory_bytes) == ("1", 1_000_000_000)
    assert spec.run is not None
    assert (spec.run.command, spec.run.env) == (["serve", "8"], {"THREADS": "4", "FAST": "true"})


@pytest.mark.parametrize(
    ("text", "least", "most"), [("{}", 1, 1), ("{min: 2}", 2, 2), ("{min: 0}", 0, 1), ("{max: 3}", 1, 3)]
)
def test_without_a_max_there_may_be_as_many_replicas_as_there_must_be(
    tmp_path: Path, text: str, least: int, most: int
) -> None:
    scale = _read(tmp_path, f"scale: {text}").scale
    assert (scale.min, scale.max) == (least, most)


@pytest.mark.parametrize(
    ("text", "most"), [("", 1), ("scale: {max: 3}", 3), ("scale: {min: 0}", 1), ("scale: {min: 0, max: 5}", 5)]
)
def test_with_a_pod_for_each_job_there_is_none_without_one(tmp_path: Path, text: str, most: int) -> None:
    spec = _read(tmp_path, f"mode: job\n{text}")
    assert (spec.scale.min, spec.scale.max, spec.concurrency, spec.jobs_at_once) == (0, most, 1, 1)
    # What was read and is written again is read as the same.
    assert EngineSpec.model_validate_json(spec.model_dump_json()) == spec


def test_numbers_are_numbers_and_what_is_left_empty_is_absent(tmp_path: Path) -> None:
    spec = _read(tmp_path, "concurrency: 8\nexecution_timeout_seconds: 2.5\nimage:\nrun: ~\n")
    assert (spec.concurrency, spec.execution_timeout_seconds, spec.image, spec.run) == (8, 2.5, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scale: {min: 3, max: 2}", ": scale.max: 2 is less than min, which is 3: raise max, or leave it out"),
        ("concurency: 4", ": concurency: is not a known key; did you mean concurrency?"),
        ("run: {comand: [python]}", "run.comand: is not a known key; did you mean run.command?"),
        ("memory: 1Gi", ": memory: is not a known key; did you mean resources.memory?"),
        ("retry: {attempts: 2}", "retry.attempts: is not a known key; did you mean retry.max_attempts?"),
        ("batch: {colour: red}", "batch.colour: is not a known key; the known ones are max_size, max_delay_ms"),
        ("slots: 4", ": slots: is called 'concurrency' now: rename it"),
        ("concurrency: lots", ": concurrency: must be a whole number, not 'lots'"),
        ("concurrency: 0", ": concurrency: must be 1 or more, not '0'"),
        ("execution_timeout_seconds: 0", ": execution_timeout_seconds: must be more than 0, not '0'"),
        ("protocol: grpc", ": protocol: must be 'predict', 'open-inference', 'openai' or 'json', not 'grpc'"),
        ("protocol: openai", ": openai: is missing: protocol openai needs it, for example openai: {model: my-model}"),
        ("protocol: open-inference", ": open_inference: is missing: protocol open-inference needs it"),
        ("protocol: json", ": json: is missing: protocol json needs it, for example json: {path: /classify,"),
        ("openai: {model: m}", ": openai: belongs to protocol openai, and this engine's protocol is predict"),
        (
            "model: {file: m.pkl}",
            ": model.file: 'm.pkl' must be a model of ONNX or skops: its name ends in .onnx or .skops",
        ),
        ("model: {file: ../m.onnx}", ": model.file: '../m.onnx' must be the path of a file in the engine's folder"),
        ("model: {file: /etc/m.onnx}", ": model.file: '/etc/m.onnx' must be the path of a file in the engine's folder"),
        ("module: {file: code.tar, engine: a}", ": module.file: 'code.tar' must be a wheel or a zip file"),
        ("module: {file: a.whl, engine: 'os; rm'}", ": module.engine: must match "),
        ("run: {command: [x]}\nmodel: {file: m.onnx}", ": model: says what runs, and so does `run`: keep one of them"),
        (
            "module: {file: a.whl, engine: a}\nmodel: {file: m.onnx}",
            ": model: says what runs, and so does `module`: keep one of them",
        ),
        (
            "model: {file: m.onnx}\nprotocol: openai\nopenai: {model: m}",
            ": protocol: is predict where `model` says what runs; a server of another protocol needs `run`",
        ),
        ("image: team/engine:v1", ": image: 'team/engine:v1' may become another image: name it by its digest"),
        ("resources: {gpu: 17}", ": resources.gpu: must be 16 or less, not '17'"),
        ("fetch: [{file: m, from: m, sha256: a}]", "fetch[0].from: must match "),
        ("fetch: [{file: m, from: 's3://b/m', sha256: a}]", ": fetch[0].sha256: must match "),
        (f"fetch: [{_FETCHED}, {_FETCHED}]", ": fetch: 'm' is fetched twice; a file has one source"),
        ("json: {path: /x}", ": json: belongs to protocol json, and this engine's protocol is predict"),
        ("protocol: openai\nopenai: {modle: m}", "openai.modle: is not a known key; did you mean openai.model?"),
        ("protocol: json\njson: {pth: /x}", "json.pth: is not a known key; did you mean json.path?"),
        ("protocol: json\njson: {path: x}", ": json.path: must match ^/"),
        ("protocol: json\njson: {path: /x, method: GET}", ": json.method: must be 'POST' or 'PUT', not 'GET'"),
        ("protocol: json\njson_call: {path: /x}", "json_call: is not a known key; did you mean json?"),
        (
            "protocol: open-inference\nopen_inference: {model: m, transport: http}",
            ": open_inference.transport: must be 'rest' or 'grpc', not 'http'",
        ),
        ("protocol: open-inference\nopen_inference: {model: a/b}", ": open_inference.model: must match "),
        (
            "protocol: openai\nopenai: {model: m}\nbatch: {max_size: 4}",
            ": batch: belongs to protocol predict, and this engine's protocol is openai: remove it",
        ),
        ("mode: jobs", ": mode: must be 'service' or 'job', not 'jobs'"),
        ("mode: job\nconcurrency: 2", ": concurrency: 2 does not go with `mode: job`, where a pod gets one job in all"),
        ("mode: job\nbatch: {max_size: 2}", ": batch: does not go with `mode: job`, where a pod gets one job in all"),
        ("mode: job\nscale: {min: 1, max: 2}", ": scale: min is 0 with `mode: job`, where a pod is made for each job"),
        (
            "mode: job\nprotocol: open-inference\nopen_inference: {model: m, transport: grpc}",
            ": open_inference: transport grpc does not go with `mode: job`",
        ),
        (_json('"data["'), ": json.request: is not JMESPath: it ends too early"),
        (_json('"data.]"'), ": json.request: is not JMESPath: ']' at character 6 does not belong there"),
        (_json('"data.\'x"'), ": json.request: is not JMESPath: "),
        (_json('"size(data)"'), ": json.request: calls size(), which JMESPath does not have; it has abs, avg,"),
        (_json('"length(data, id)"'), ": json.request: calls length() with 2 arguments, where it takes 1"),
        (_json(f'"{"a" * 2_001}"'), ": json.request: has 2001 characters, where 2000 are allowed"),
        ("run: python", ": run: must hold keys and values, not 'python'"),
        ("run: {command: python}", ": run.command: must be a list, not 'python'"),
        ("run: {command: []}", ": run.command: must not be empty"),
        ("run: {command: [[a]]}", ": run.command[0]: must be a text, not a list"),
        ("version: a/b", ": version: must match "),
        ("resources: {memory: lots}", ": resources.memory: 'lots' is not a quantity: write a number and a unit"),
        ("resources: {memory: 512m}", "is less than 4Mi, too little for any process; did you mean 512Mi?"),
        ("resources: {cpu: 2 cores}", ": resources.cpu: '2 cores' is not a quantity"),
        ('run: {command: [""]}', ": run.command: must begin with a program, such as python"),
        ('run: {command: [a, "b\\0"]}', ": run.command[1]: has a zero byte"),
        ('run: {command: [a], env: {A: "\\0"}}', ": run.env.A: has a zero byte"),
        ("run: {command: [a], env: {PORT: 80}}", ": run.env: PORT is set for every engine, so its own value would be"),
        ("run: {command: [a], env: {A=B: c}}", ": run.env: 'A=B' is not a variable's name"),
        (
            "run: {command: [node, e.js]}\npython: 3.12",
            ": python: belongs to engines in Python, and `run` starts 'node': remove it",
        ),
        ("retry: {initial_delay_ms: 9, max_delay_ms: 8}", ": retry: initial_delay_ms, 9, is more than max_delay_ms, 8"),
        ("model: {file: m.onnx}\nsecrets: [A]", ": secrets: belongs to engines with code"),
        ("model: {file: m.onnx}\nbatch: {max_size: 2}", ": batch: belongs to engines with predict_batch"),
        ("labels: {" + ", ".join(f"a{n}: b" for n in range(17)) + "}", ": labels: must have at most 16 entries"),
        ("openai: {model: ''}\nprotocol: openai", ": openai.model: must not be empty"),
        ("concurrency: 1\nconcurrency: 2", " is not YAML: the key 'concurrency' stands twice"),
    ],
)
def test_a_mistake_names_its_place_and_what_would_be_right(tmp_path: Path, text: str, said: str) -> None:
    assert said in _mistakes(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "protocol: open-inference\nopen_inference: {model: iris, version: 2, transport: grpc}",
        "protocol: openai\nopenai: {model: Qwen/Qwen3-0.6B}",
        'protocol: json\njson: {path: /x, request: "{a: data, n: length(data), m: merge(data, parameters)}", result: "a[*].b"}',
    ],
)
def test_a_ready_made_server_is_described_and_its_bundle_says_the_same(tmp_path: Path, text: str) -> None:
    spec = _read(tmp_path, text)
    (tmp_path / "engine.yaml").write_text(render_engine(spec, "folder")[f"slots/a/{ENGINE_FILE}"])
    assert read_yaml(EngineSpec, tmp_path / "engine.yaml") == spec


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("concurrency: 0", 3),
        ("run:\n  command: [a]\n  env:\n    A: b\n    B: [c]", 7),
        ("run:\n  command:\n  - a\n  - [b]", 6),
        ("run:\n  comand: [a]", 4),
        ("labels:\n  a: b\n  A B: c", 5),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, line: int) -> None:
    assert f"(line {line})" in _mistakes(tmp_path, text)


def test_what_is_missing_has_no_line_of_its_own(tmp_path: Path) -> None:
    assert "run.command: is missing (line 3)" in _mistakes(tmp_path, "run: {env: {A: b}}")
    assert _mistakes(tmp_path, "protocol: openai").endswith("openai: {model: my-model}")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").write_text("tenant: kube-x\nconcurency: 4\nresources: {cpu: -1, memory: lots}\n")
    with pytest.raises(InvalidFile) as refused:
        read_yaml(EngineSpec, tmp_path / "engine.yaml")
    first, *others = str(refused.value).splitlines()
    assert first.endswith("engine.yaml has 5 mistakes:")
    assert {line.strip().partition(": ")[0] for line in others} == {
        "tenant",
        "name",
        "concurency",
        "resources.cpu",
        "resources.memory",
    }


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "tenant"])
def test_no_mistake_is_told_in_the_words_of_a_library(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine.yaml").write_text(text)
    with pytest.raises(InvalidFile) as refused:
        read_yaml(EngineSpec, tmp_path / "engine.yaml")
    assert "the file: must hold keys and values, not" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", "1"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("500m", "0.5"),
        ("1k", "1000"),
        ("1M", "1000000"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("2Ti", "2199023255552"),
        ("1e3", "1000"),
        ("12E2", "1200"),
        ("1E", "1000000000000000000"),
    ],
)
def test_quantities_mean_what_they_mean_in_kubernetes(text: str, number: str) -> None:
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize(
    "text", ["", "Mi", "-1", "+1", "1 Mi", "1mi", "1MB", "1K", "1KiB", "0x10", "1e", "٣", "1_000", "inf"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


def test_the_memory_of_a_replica_is_a_whole_number_of_bytes() -> None:
    assert Resources(memory="4194304.5").memory_bytes == 4_194_304
