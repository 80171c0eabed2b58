"""A file that people write is read only if it is one: bounded, regular, and never quoted at length."""

import os
from pathlib import Path

import pytest

from enginehouse.contracts.engine import EngineSpec
from enginehouse.yaml_files import InvalidFile, read_yaml


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    os.mkfifo(path)
    with pytest.raises(InvalidFile, match="is not a file"):
        read_yaml(EngineSpec, path)


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").symlink_to("/dev/zero")
    with pytest.raises(InvalidFile, match="is not a file"):
        read_yaml(EngineSpec, tmp_path / "engine.yaml")
    (tmp_path / "large.yaml").write_text("# much\n" * 200_000)
    with pytest.raises(InvalidFile, match="more than the 1,048,576 bytes"):
        read_yaml(EngineSpec, tmp_path / "large.yaml")


def test_a_file_of_another_kind_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 30)
    with pytest.raises(InvalidFile) as refused:
        read_yaml(EngineSpec, path)
    assert "must hold keys and values, not text" in str(refused.value)
    assert "/bin/bash" not in str(refused.value)


def test_what_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("a: " + "[" * 5_000 + "]" * 5_000)
    with pytest.raises(InvalidFile, match="is nested too deeply"):
        read_yaml(EngineSpec, path)
