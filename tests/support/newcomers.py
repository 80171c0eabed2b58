"""The mistakes of a newcomer who writes an engine, each as a small folder, and what must be said about each."""

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.support.dapr import PORTS

OURS = "run: {command: [python, -m, enginehouse.engine, engine]}\n"
_CODE = """
from pydantic import BaseModel
from enginehouse.engine import Engine

class Text(BaseModel):
    text: str

class Count(BaseModel):
    words: int

class Mine(Engine):
    def predict(self, data: Text) -> Count:
        return RESULT
"""
_PLAIN = "run: {command: [python, serve.py]}\n"
_SERVER = """
import json, os, signal, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path == "/healthz" else 404, {})

    def do_POST(self):
        data = json.loads(self.rfile.read(int(self.headers["content-length"])))["data"]
        if not isinstance(data, dict) or not isinstance(data.get("text"), str):
            return self.answer(422, {"error": {"message": "text must be a string"}})
        self.answer(200, {"result": {"words": len(data["text"].split())}})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def served(old: str, new: str) -> dict[str, str]:
    assert old in _SERVER
    return {"serve.py": _SERVER.replace(old, new)}


def answered(result: str) -> dict[str, str]:
    return {"engine.py": _CODE.replace("RESULT", result)}


SOUND = answered("Count(words=len(data.text.split()))")
RESULT = '{"result": {"words": len(data["text"].split())}}'


@dataclass(frozen=True)
class Mistake:
    """What a newcomer did wrong, and what must be said about it."""

    says: list[str]
    check: str
    run: str = _PLAIN
    files: dict[str, str] = field(default_factory=lambda: {"serve.py": _SERVER})
    head: str = "tenant: acme\nname: sentiment\n"
    options: tuple[str, ...] = ()


_FIXED_PORT = PORTS.take()
MISTAKES = {
    "capital letters": Mistake(
        ["engine.yaml", "name", "'Sentiment' is not a valid name", "a-z"],
        "files",
        head="tenant: acme\nname: Sentiment\n",
    ),
    "wrong tenant": Mistake(
        ["there is no tenant 'acne' here", "did you mean 'acme'", "enginehouse tenant add acne"],
        "files",
        head="tenant: acne\nname: sentiment\n",
    ),
    "misspelt key": Mistake(["concurency", "did you mean concurrency"], "files", run=f"{_PLAIN}concurency: 2\n"),
    "no run": Mistake(["run: nothing runs; add `run: {command: [...]}`"], "files", run=""),
    "image only": Mistake(
        ["runs in a container only, and here engines run as processes"],
        "files",
        run=f"image: x@sha256:{'0' * 64}\n",
    ),
    "image without a digest": Mistake(["may become another image"], "files", run="image: x:v1\n"),
    "requirements file missing": Mistake(
        ["there is no file requirements.txt"],
        "files",
        run="run: {command: [python, serve.py], requirements: requirements.txt}\n",
    ),
    "package that cannot be installed": Mistake(
        ["The requirements of acme--sentiment cannot be installed", "torn-1.0"],
        "environment",
        run="run: {command: [python, serve.py], requirements: requirements.txt}\n",
        files={
            "serve.py": _SERVER,
            "requirements.txt": "./torn-1.0-py3-none-any.whl\n",
            "torn-1.0-py3-none-any.whl": "not a wheel",
        },
    ),
    "syntax error": Mistake(
        ["ended with exit status 1", "engine.py", "SyntaxError"],
        "start",
        run=OURS,
        files={"engine.py": _CODE.replace("data: Text)", "data: Text")},
    ),
    "package not listed": Mistake(
        [
            "Add the package that has the module 'pandas' to a file, and name that as run.requirements",
            "No module named 'pandas'",
        ],
        "start",
        run=OURS,
        files={"engine.py": f"import pandas\n{_CODE}"},
    ),
    "module of another name": Mistake(
        ["names the module engine, and there is no engine.py in the folder"], "start", run=OURS, files={"model.py": ""}
    ),
    "no such program": Mistake(["cannot start no-such-program"], "start", run="run: {command: [no-such-program]}\n"),
    "hard-coded port": Mistake(
        [f"It listens on port {_FIXED_PORT}, and must listen on the port in its variable PORT"],
        "start",
        files=served('int(os.environ["PORT"])', str(_FIXED_PORT)),
    ),
    "another address": Mistake(
        ["It listens on 127.0.0.2 only, and must listen on 127.0.0.1"],
        "start",
        files=served('"127.0.0.1"', '"127.0.0.2"'),
    ),
    "too much memory": Mistake(
        ["more memory than the 256 MiB that resources.memory", "MemoryError"],
        "start",
        run=f"{_PLAIN}resources: {{memory: 256Mi}}\n",
        files={"serve.py": f"x = bytearray(700_000_000)\n{_SERVER}"},
    ),
    "no healthz": Mistake(
        ["GET /healthz answers 404", "must have this route"], "health", files=served('"/healthz"', '"/health"')
    ),
    "never listens": Mistake(
        ["After 1 s, nothing listens on 127.0.0.1:", "the port in its variable PORT"],
        "health",
        run="run: {command: [sleep, 1000]}\n",
        options=("--timeout", "1"),
    ),
    "schema that refers elsewhere": Mistake(
        ["The input schema of its /openapi.json would not be used: its $ref", "'https://elsewhere/x'"],
        "schema",
        files=served(
            "self.answer(200 if self.path",
            """self.answer(200, {"paths": {"/predict": {"post": {"requestBody": {"content": {"application/json": """
            """{"schema": {"properties": {"data": {"$ref": "https://elsewhere/x"}}}}}}}}}}) """
            """if "openapi" in self.path else self.answer(200 if self.path""",
        ),
    ),
    "example that is not JSON": Mistake(
        ["example.json is not JSON"], "example", files={"serve.py": _SERVER, "example.json": "{'text': 1}"}
    ),
    "example that does not fit": Mistake(
        ["example.json does not fit the engine's input schema", "input.text"],
        "example",
        run=OURS,
        files={**SOUND, "example.json": '{"text": 5}'},
    ),
    "bare result": Mistake(
        ['example.json is answered with {"words": 2}', 'must be {"result": …}', '{"result": {"words": 2}}'],
        "example",
        files=served(RESULT, '{"words": len(data["text"].split())}'),
    ),
    "NaN": Mistake(
        ["result.scores[1]: JSON cannot hold NaN"],
        "example",
        files=served(RESULT, '{"result": {"scores": [1.0, float("nan")]}}'),
    ),
    "NaN in our package": Mistake(
        ["result.score: nan, a number that JSON does not have"],
        "example",
        run=OURS,
        files={
            "engine.py": _CODE.replace("-> Count", "-> dict[str, float]").replace("RESULT", "{'score': float('nan')}")
        },
    ),
    "numpy": Mistake(
        ["Object of type float32 is not JSON serializable", "float(x) of a NumPy number"],
        "example",
        run="run: {command: [python, serve.py], requirements: requirements.txt}\n",
        files={
            **served(RESULT, '{"result": __import__("numpy").float32(1)}'),
            "requirements.txt": f"numpy=={version('numpy')}\n",
        },
    ),
    "result of another type": Mistake(
        ["the result is not of the declared type", "words"], "example", run=OURS, files=answered("{'words': 'many'}")
    ),
    "exception": Mistake(["KeyError: 'model'", "engine.py"], "example", run=OURS, files=answered("{}['model']")),
    "exits": Mistake(
        ["example.json ends the engine, with exit status 3"],
        "example",
        files=served("self.answer(200, {", "os._exit(3, ) or self.answer(200, {"),
    ),
    "too slow": Mistake(
        ["gave no answer within execution_timeout_seconds of engine.yaml, which is 2 s"],
        "example",
        run=f"{_PLAIN}execution_timeout_seconds: 2\n",
        files=served("self.answer(200, {", "time.sleep(60) or self.answer(200, {"),
    ),
    "bad input is a failure": Mistake(
        ["The input null fails: the engine answered 500", "must be answered with 422"],
        "bad input",
        files=served("422", "500"),
    ),
    "does not stop": Mistake(
        ["does not end within 5 s of SIGTERM"],
        "stop",
        files=served("ThreadingHTTPServer((", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nThreadingHTTPServer(("),
    ),
}


def write(folder: Path, mistake: Mistake) -> Path:
    files = {"engine.yaml": mistake.head + mistake.run, "example.json": '{"text": "two words"}', **mistake.files}
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
