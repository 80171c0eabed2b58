"""What is written for containers before a Docker Engine sees it: their limits, their Dockerfiles, their requirements."""

import json
import re
from pathlib import Path

import pytest

from enginehouse.contracts.engine import Resources
from enginehouse.local.containers.dockerfile import images_of
from enginehouse.local.containers.hardening import SECCOMP, engine_limits
from enginehouse.local.containers.images import harmless
from enginehouse.registry.bundle import InvalidBundle

_IMAGE = "registry.example/python@sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("ARG BASE\nFROM ${BASE}\nCOPY . .\n", set()),
        (
            "ARG BASE=enginehouse/engine-base:0.1\r\nfrom $BASE as made\nFROM scratch\nCOPY --from=made /x /y\nCOPY --from=0 / /\n",
            set(),
        ),
        (f"FROM {_IMAGE}\nRUN add-user && echo ADDED\n", {_IMAGE}),
        (f"FROM ${{BASE}}\nCOPY --from={_IMAGE} /bin/tool /bin/\n", {_IMAGE}),
        ("FROM ${BASE}\nRUN make \\\n  # a comment\n  all\n", set()),
    ],
    ids=["the template's", "stages", "by digest", "copied from a digest", "continued"],
)
def test_a_dockerfile_takes_its_base_and_images_by_their_digest(text: str, images: set[str]) -> None:
    assert images_of(text) == images


@pytest.mark.parametrize(
    "text",
    [
        "FROM python:3.11-slim\n",
        "FROM 10.0.0.5:5000/python\n",
        "FROM evil AS evil\n",
        "FROM --platform=linux/amd64 ${BASE}\n",
        "FROM \\\n evil\n",
        "FROM ${BASE}${OTHER}\n",
        "FROM ${BASE}\nADD http://169.254.169.254/latest /x\n",
        "FROM ${BASE}\n  add --chown=1:1 files.tar /\n",
        "FROM ${BASE}\nRUN x\\\\\nADD http://inside/ /x\n",
        "FROM ${BASE}\nONBUILD ADD http://inside/ /x\n",
        "FROM ${BASE}\nCOPY --from=evil /x /y\n",
        "FROM ${BASE}\nCOPY --from=1 /x /y\n",
        "FROM ${BASE}\nCOPY --fr\\\nom=evil /x /y\n",
        "FROM ${BASE}\nCOPY --fr\\\n# between\n\nom=evil /x /y\n",
        "FROM ${BASE}\nCOPY --from /x /y\n",
        "# escape=`\nFROM ${BASE}\n",
        "# syntax=evil/frontend\nFROM ${BASE}\n",
        "\ufeffADD http://inside/ /x\n",
        "FROM ${BASE}\nCOPY --from=later /x /y\nFROM ${BASE} AS later\n",
    ],
)
def test_a_dockerfile_that_makes_the_docker_engine_fetch_is_refused(text: str) -> None:
    with pytest.raises(InvalidBundle, match="Dockerfile: "):
        images_of(text)


def test_an_engine_gets_what_its_engine_yaml_says_and_no_more() -> None:
    limits = engine_limits(Resources(cpu="250m", memory="64Mi"))
    bounds = {"--memory=67108864", "--memory-swap=67108864", "--cpus=0.25", "--user=1000:3000", "--read-only"}
    assert bounds <= set(limits)
    assert f"size={32 * 2**20}" in " ".join(limits)
    assert "--gpus" not in limits
    assert engine_limits(Resources(gpu=2))[-2:] == ["--gpus", "2"]


def test_a_container_makes_no_call_that_reaches_out_of_it() -> None:
    allowed = {name for rule in json.loads(SECCOMP.read_text())["syscalls"] for name in rule["names"]}
    reaching = r"ptrace|process_vm_.*|bpf|keyctl|add_key|userfaultfd|perf_.*|u?mount.*|setns|unshare|io_uring_(?!setup).*|kexec.*|.*_module|chroot|mknod.*|open_by_handle_at|pivot_root"
    assert not [name for name in allowed if re.fullmatch(reaching, name)]


def test_what_would_be_built_on_the_host_is_not_given_to_uv(tmp_path: Path) -> None:
    files = {
        name: tmp_path / name.replace("/", "_")
        for name in ("requirements.txt", "own/pyproject.toml", "own/setup.py", "own/x.py")
    }
    assert sorted(harmless(files)) == ["own/x.py", "requirements.txt"]
    (tmp_path / "uv.toml").write_text('exclude-dependencies = ["torch"]\n')
    assert harmless({"uv.toml": tmp_path / "uv.toml"})
    for text in ('[pip]\nonly-binary = [":none:"]\n', 'cache-dir = "/etc"\n'):
        (tmp_path / "uv.toml").write_text(text)
        with pytest.raises(InvalidBundle, match="cannot be set where engines run in containers"):
            harmless({"uv.toml": tmp_path / "uv.toml"})
