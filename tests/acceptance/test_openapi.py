"""The API keeps to its own OpenAPI description: schemathesis sends valid and invalid requests to a live stack."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.stack import StackHandle, running_stack

_ENGINES = Path(__file__).resolve().parents[1] / "engines"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    with running_stack(tmp_path_factory.mktemp("openapi"), [_ENGINES / "echo"]) as handle:
        yield handle


@pytest.mark.timeout(300)
def test_every_answer_is_as_described(stack: StackHandle, tmp_path: Path) -> None:
    """Its command, since what it brings for pytest does not run under this pytest. FUZZ_EXAMPLES makes it try more."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{stack.base_url}/openapi.json"]
    done = subprocess.run(
        [
            *command,
            *("--header", f"Authorization: Bearer {stack.key_for('tests')}"),
            *("--max-examples", os.environ.get("FUZZ_EXAMPLES", "2")),
            "--no-color",
            # Only an engine's own schema says which inputs are right: a request that this API's allows may be refused.
            *("--exclude-checks", "positive_data_acceptance"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:]
    assert "No issues found" in done.stdout or "Test cases" in done.stdout, done.stdout[-2_000:]
    assert stack.call("GET", "/healthz/ready", tenant="tests").status == 200
