"""The suite sees it if layers are weakened: then the attempts that they stop succeed, and the run fails."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.abuse.weakened import LAYERS, OF_CONTAINERS
from tests.support.break_ins import ROOT
from tests.support.docker import skip_without_docker

_SEEN_BY = {
    "users of redis": ("tests/isolation/test_broker_users.py", "all_that_is_not_its_own"),
    "topic scopes": ("tests/isolation/test_bundle_scopes.py", "publishes_nothing_else"),
    "tokens": ("tests/isolation/test_bundle_scopes.py", "grpc_needs_the_token or without_the_token"),
    "tokens of deliveries": ("tests/unit/test_runner_calls.py", "only_the_gateway"),
    "webhook addresses": ("tests/unit/test_webhooks.py", "could_reach_inside"),
    "owners": ("tests/isolation/test_every_route.py", "another_tenants_key"),
    "redirects": ("tests/unit/test_runner_answers.py", "a_redirect_is_not_followed"),
    "bounded answers": ("tests/unit/test_runner_answers.py", "says_its_size"),
    "archives": ("tests/unit/test_unpack.py", "comes_out_is_counted"),
    "proofs": ("tests/unit/test_runner_dead_letters.py", "no_gateway_has_handed_over"),
}
"""Which attempts each layer stops: a module, and an expression of pytest."""
_IN_CONTAINERS = {
    "seccomp": "system calls",
    "read-only root": "writes outside",
    "bound of processes": "starts processes",
    "bound of open files": "opens files and sockets",
    "internal networks": "connects to the host",
}
"""How the name of an attempt begins that each layer stops."""


def _run(folder: Path, layers: list[str], modules: list[str], attempts: str) -> str:
    """Run attempts with weakened layers in a process of their own, and return what pytest says. The run must fail."""
    options = [
        "-q",
        "--tb=no",
        "-m",
        "attempt",
        "-k",
        attempts,
        f"--basetemp={folder / 'inner'}",
        "-p",
        "no:cacheprovider",
    ]
    options += [word for layer in layers for word in ("--weaken", layer)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *modules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout[-4_000:] + done.stderr[-2_000:]
    return done.stdout


@pytest.mark.can_fail
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "layers", [["tokens"], [layer for layer in LAYERS if layer != "tokens"]], ids=["one", "others"]
)
def test_without_layers_each_attempt_that_they_stop_succeeds(tmp_path: Path, layers: list[str]) -> None:
    seen_by = {layer: _SEEN_BY[layer] for layer in layers}
    modules = list(dict.fromkeys(module for module, _ in seen_by.values()))
    said = _run(tmp_path, layers, modules, " or ".join(attempts for _, attempts in seen_by.values()))
    assert re.search(r"(\d+) attempts, \1 of them", said), said[-4_000:]
    assert "NOT TRIED: " not in said, said[-4_000:]
    failed = [line for line in said.splitlines() if line.startswith("FAILED ")]
    for layer, (module, attempts) in seen_by.items():
        found = [line for line in failed if module in line and any(name in line for name in attempts.split(" or "))]
        assert found, (layer, said[-4_000:])


@pytest.mark.can_fail
@pytest.mark.timeout(600)
def test_without_the_layers_of_containers_each_attempt_that_they_stop_succeeds(tmp_path: Path) -> None:
    skip_without_docker()
    attempts = "system_calls or scratch_only or fork_bomb or open_files or nobody_but_its_relay"
    said = _run(tmp_path, [*OF_CONTAINERS], ["tests/isolation/containers/test_break_out.py"], attempts)
    seen = [line.strip() for line in said.splitlines() if "NOT STOPPED: " in line]
    for layer, begins in _IN_CONTAINERS.items():
        assert [line for line in seen if begins in line], (layer, said[-6_000:])
