"""A hash tells whether an engine's folder has changed since it was deployed."""

import os
from pathlib import Path

import pytest

from enginehouse.registry.content import content_hash
from enginehouse.registry.deploy import deploy_engine, is_deployed


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    (folder / "data").mkdir(parents=True)
    (folder / "engine.yaml").write_text("tenant: acme\nname: one\n")
    (folder / "data" / "words.txt").write_bytes(b"\x00one")
    return folder


def test_every_file_and_its_name_counts(engine: Path) -> None:
    seen = {content_hash(engine)}
    (engine / "data" / "words.txt").write_bytes(b"\x00two")
    seen.add(content_hash(engine))
    (engine / "data" / "words.txt").rename(engine / "data" / "other.txt")
    seen.add(content_hash(engine))
    (engine / "data" / "other.txt").unlink()
    seen.add(content_hash(engine))
    assert len(seen) == 4


def test_what_tools_leave_behind_and_what_is_no_file_does_not_count(engine: Path) -> None:
    before = content_hash(engine)
    for left in ("__pycache__/engine.cpython-311.pyc", ".venv/bin/python", ".enginehouse/run/lock"):
        (engine / left).parent.mkdir(parents=True)
        (engine / left).write_text("anything")
    (engine / "engine.pyc").write_text("anything")
    os.mkfifo(engine / "pipe")
    (engine / "nowhere").symlink_to("gone")
    assert content_hash(engine) == before


def test_a_deployment_is_replaced_when_its_code_changed_and_only_then(engine: Path, tmp_path: Path) -> None:
    home = tmp_path / "engines"
    spec = deploy_engine(home, engine)
    bundle = home / spec.id
    assert is_deployed(home, engine, spec)
    inode = bundle.stat().st_ino
    deploy_engine(home, engine)
    # The very same folder, because a running sidecar watches it.
    assert bundle.stat().st_ino == inode
    before = (bundle / "workloads.yaml").read_bytes()
    (engine / "data" / "words.txt").write_text("changed")
    assert not is_deployed(home, engine, spec)
    deploy_engine(home, engine)
    assert is_deployed(home, engine, spec)
    assert (bundle / "workloads.yaml").read_bytes() != before
