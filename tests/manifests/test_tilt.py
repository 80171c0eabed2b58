"""Tilt builds and applies what tilt.yaml names. Without Tilt, its file is run with functions of the same names in their place."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

_ROOT = Path(__file__).resolve().parents[2]
_WANTED = yaml.safe_load((_ROOT / "tilt.yaml").read_text())
_IMAGE = "enginehouse-engines/shared--standard"
_HAS_KUBECTL = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl builds kustomizations, and is not here"
)
_KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: kind-kind, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: kind-kind, context: {cluster: kind-kind, user: nobody}}]
users: [{name: nobody, user: {}}]
current-context: kind-kind
"""


class _Refused(Exception):
    """The Tiltfile calls fail()."""


class _Tilt:
    """Runs the Tiltfile, which is Python here, and remembers what it calls."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        answers: dict[str, Callable[..., Any]] = {
            "read_yaml": lambda path: wanted if path == "tilt.yaml" else yaml.safe_load((_ROOT / path).read_text()),
            "kustomize": lambda path: _said("kubectl", "kustomize", str(_ROOT / path)),
            "decode_yaml_stream": lambda text: list(yaml.safe_load_all(text)),
            "encode_yaml_stream": lambda items: items,
            "fail": self._fail,
        }
        noted = (
            "allow_k8s_contexts",
            "docker_build",
            "k8s_yaml",
            "local_resource",
            "k8s_resource",
            "k8s_custom_deploy",
        )
        known = {**answers, **{name: self._note(name) for name in noted}}
        exec(compile((_ROOT / "Tiltfile").read_text(), "Tiltfile", "exec"), known)

    def _note(self, name: str) -> Callable[..., None]:
        return lambda *given, **named: self.calls.setdefault(name, []).append((given, named))

    @staticmethod
    def _fail(message: str) -> None:
        raise _Refused(message)

    def named(self, function: str) -> dict[str, dict[str, Any]]:
        """Return the calls of a function, by their first argument."""
        return {given[0]: named for given, named in self.calls[function]}


def _said(*command: str, **variables: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=_ROOT, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", _WANTED["engines"])
def test_each_engine_that_is_named_can_be_built(folder: str) -> None:
    spec = yaml.safe_load((_ROOT / folder / "engine.yaml").read_text())
    assert {"tenant", "name"} <= set(spec)
    assert "ARG BASE=enginehouse/engine-base:" in (_ROOT / folder / "Dockerfile").read_text()


@_HAS_KUBECTL
class TestTheTiltfile:
    def test_images_are_built_that_something_uses(self) -> None:
        tilt = _Tilt(_WANTED)
        built = tilt.named("docker_build")
        assert set(built) == {"enginehouse", "enginehouse/engine-base", _IMAGE}
        for named in (built["enginehouse"], built["enginehouse/engine-base"]):
            assert (_ROOT / named["dockerfile"]).is_file()
            assert all((_ROOT / path).exists() for path in named["only"])
        assert tilt.named("k8s_custom_deploy")["shared--standard"]["image_deps"] == [_IMAGE, "enginehouse"]

    def test_services_that_are_not_wanted_are_left_out(self) -> None:
        (((objects,), _),) = _Tilt({**_WANTED, "services": {"redis": {}}}).calls["k8s_yaml"]
        workloads = [one["metadata"]["name"] for one in objects if one["kind"] in ("Deployment", "StatefulSet")]
        assert workloads == ["redis"]
        assert "NetworkPolicy" in {one["kind"] for one in objects}

    @pytest.mark.parametrize(
        ("name", "why"), [("nobody", "no service nobody, but "), ("registry", "leave the registry out")]
    )
    def test_a_service_that_there_is_not_or_that_would_disagree_is_refused(self, name: str, why: str) -> None:
        with pytest.raises(_Refused, match=why):
            _Tilt({**_WANTED, "services": {name: {}}})

    def test_commands_are_there(self) -> None:
        tilt = _Tilt(_WANTED)
        for named in (*tilt.named("k8s_custom_deploy").values(), *tilt.named("local_resource").values()):
            for command in (named.get("cmd"), named.get("apply_cmd"), named.get("delete_cmd")):
                assert all((_ROOT / word).exists() for word in command or [] if word.startswith("k8s/"))

    @pytest.mark.skipif(shutil.which("tilt") is None, reason="tilt is not here")
    def test_tilt_itself_finds_the_same(self, tmp_path: Path) -> None:
        config = tmp_path / "config"
        config.write_text(_KUBECONFIG)
        said = _said("tilt", "alpha", "tiltfile-result", KUBECONFIG=str(config), HOME=str(tmp_path), DO_NOT_TRACK="1")
        result = json.loads(said)
        images = {
            one["Name"]: {image["selector"] for image in one["ImageTargets"] or []} for one in result["Manifests"]
        }
        assert set(images) >= {*_WANTED["services"], "shared--standard"}
        # The base is found in the engine's own Dockerfile.
        assert images["shared--standard"] == {"enginehouse/engine-base", _IMAGE, "enginehouse"}


_KUBECTL = """#!{python}
import json, os, subprocess, sys
arguments = sys.argv[1:]
if arguments[0] == "kustomize":
    os.execv({kubectl!r}, ["kubectl", *arguments])
stdin = sys.stdin.read() if arguments[-2:] == ["-f", "-"] else ""
with open({log!r}, "a") as log:
    log.write(json.dumps([arguments, stdin]) + "\\n")
held = {{"registry": {{"broker-username": "YQ==", "broker-password": "Yg=="}}, "gateway": {{"proof-key": "{proof}"}}}}
if "get" in arguments and arguments[4] in held:
    print(json.dumps({{"data": held[arguments[4]]}}))
"""


@_HAS_KUBECTL
class TestAnEngine:
    """The script that Tilt runs, beside a kubectl and a docker that only write down what they are told."""

    @staticmethod
    def _run(tmp_path: Path, command: str, digest: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
        log, programs = tmp_path / "log", tmp_path / "bin"
        programs.mkdir()
        proof = "c2VjcmV0" * 8
        text = _KUBECTL.format(python=sys.executable, kubectl=shutil.which("kubectl"), log=str(log), proof=proof)
        for name, content in (
            ("kubectl", text),
            ("docker", f"#!/bin/sh\necho other sha256:1\necho 'tilt-1 {digest}'\n"),
        ):
            (programs / name).write_text(content)
            (programs / name).chmod(0o755)
        variables = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "TILT_IMAGE_0": f"localhost:5000/{_IMAGE}:tilt-1",
            "TILT_IMAGE_1": "localhost:5000/enginehouse:tilt-2",
        }
        done = subprocess.run(
            [sys.executable, "k8s/tilt/engine.py", command, "services/engines/standard"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=_ROOT,
            env={**os.environ, **variables},
        )
        return done, [json.loads(line) for line in log.read_text().splitlines()]

    def test_it_is_applied_with_the_image_that_was_built_and_with_its_secrets(self, tmp_path: Path) -> None:
        digest = f"sha256:{'a' * 64}"
        done, called = self._run(tmp_path, "apply", digest)
        assert done.returncode == 0, done.stderr
        images = {
            one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]["image"]
            for one in yaml.safe_load_all(done.stdout)
            if one and one["kind"] == "Deployment"
        }
        assert images["shared--standard--a"] == f"localhost:5000/{_IMAGE}@{digest}"
        assert images["shared--standard--a-runner"] == "localhost:5000/enginehouse:tilt-2"
        made = [json.loads(stdin) for _, stdin in called if stdin]
        assert {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in made} == {
            ("enginehouse", "tenants"),
            ("tenant-shared", "shared--standard"),
            ("tenant-shared", "shared--standard-dapr-api"),
            ("tenant-shared", "shared--standard-app"),
        }
        assert "eh_shared_" in done.stderr
        assert "eh_shared_" not in done.stdout

    def test_an_image_that_was_pushed_nowhere_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        done, _ = self._run(tmp_path, "apply", "<none>")
        assert done.returncode != 0
        assert "--registry" in done.stderr

    def test_it_is_deleted_with_what_the_gateway_has_of_it(self, tmp_path: Path) -> None:
        done, called = self._run(tmp_path, "delete", "")
        assert done.returncode == 0, done.stderr
        assert [arguments[1] for arguments, _ in called] == ["tenant-shared", "enginehouse"]
        assert all("enginehouse.dev/engine=shared--standard" in arguments for arguments, _ in called)
