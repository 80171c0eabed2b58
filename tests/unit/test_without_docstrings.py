"""Python drops docstrings and asserts where PYTHONOPTIMIZE is 2. Nothing that the product does depends on them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

_REFUSALS = """
import asyncio, json, sys
from pathlib import Path
import httpx2
from tests.support.gateway import gateway_world

async def main(folder):
    async with gateway_world(folder) as world:
        client = world.client()
        answers = [
            await client.get("/v1/jobs", headers={"Authorization": "Bearer nobody's"}),
            await client.post("/v1/jobs", json={"engine": "none-such", "input": 1}),
            await client.post("/v1/jobs", json={"inptu": 1}),
            await client.get("/nope"),
            await client.post("/v1/jobs", json={"engine": "echo", "input": 1}),
        ]
        sys.stdout.write(json.dumps([[answer.status_code, answer.json()] for answer in answers]))

asyncio.run(main(Path(sys.argv[1])))
"""
_ROOT = Path(__file__).resolve().parents[2]


Python = Callable[..., str]


@pytest.fixture(scope="module")
def python(pytestconfig: pytest.Config) -> Python:
    """Run Python so. What it compiles is kept for later runs: nothing else in an environment is compiled in this way."""
    compiled = str(pytestconfig.cache.mkdir("compiled")) if pytestconfig.cache else ""
    own = {"PYTHONOPTIMIZE": "2", "PYTHONPATH": str(_ROOT), "PYTHONPYCACHEPREFIX": compiled}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return partial(_run, environment={**kept, **own})


def _run(*arguments: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_a_refusal_is_the_same_refusal(python: Python, tmp_path: Path) -> None:
    answers = json.loads(python("-c", _REFUSALS, str(tmp_path)).splitlines()[-1])
    assert [status for status, _ in answers] == [401, 404, 422, 404, 202]
    assert [body["title"] for _, body in answers[:4]] == [
        "Unauthenticated",
        "Engine does not exist",
        "Invalid request",
        "Not found",
    ]


def test_an_error_without_a_detail_says_its_kind(python: Python) -> None:
    assert python("-c", "from enginehouse.contracts.errors import QueueFull as E; print(E())").strip() == "Queue full."


def test_an_engine_without_a_docstring_is_described_as_nothing(python: Python) -> None:
    script = "from enginehouse.engine import Engine\nclass E(Engine):\n    'Scales.'\nprint(E().info())"
    assert python("-c", script).strip() == "{'engine': 'E', 'description': ''}"


def test_the_command_shows_its_help(python: Python) -> None:
    assert "--input" in python("-m", "enginehouse.cli.main", "submit", "--help")
