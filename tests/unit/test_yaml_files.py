"""A file that people write is read only if it is one: bounded, regular, and never quoted at length."""

import os
from pathlib import Path

import pytest
from tests.support.break_ins import attempt

from enginehouse.contracts.engine import EngineSpec
from enginehouse.yaml_files import InvalidFile, read_yaml


@attempt("puts a pipe in the place of a file", layer="regular files only")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    os.mkfifo(path)
    with pytest.raises(InvalidFile, match="is not a file"):
        read_yaml(EngineSpec, path)


@attempt("puts an endless device in the place of a file", layer="bounded files")
def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").symlink_to("/dev/zero")
    with pytest.raises(InvalidFile, match="is not a file"):
        read_yaml(EngineSpec, tmp_path / "engine.yaml")
    (tmp_path / "large.yaml").write_text("# much\n" * 200_000)
    with pytest.raises(InvalidFile, match="more than the 1,048,576 bytes"):
        read_yaml(EngineSpec, tmp_path / "large.yaml")


@attempt("makes an error quote a secret file", layer="errors quote no content")
def test_a_file_of_another_kind_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 30)
    with pytest.raises(InvalidFile) as refused:
        read_yaml(EngineSpec, path)
    assert "must hold keys and values, not text" in str(refused.value)
    assert "/bin/bash" not in str(refused.value)


@attempt("nests YAML until the reader fails", layer="bounded depth")
def test_what_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("a: " + "[" * 5_000 + "]" * 5_000)
    with pytest.raises(InvalidFile, match="is nested too deeply"):
        read_yaml(EngineSpec, path)


_LEVELS = "".join(f"  a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))


@attempt("writes a YAML bomb: a few lines of anchors that would fill the memory", layer="bounded aliases and merges")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"x:\n  a0: &a0 {{x: 1}}\n{_LEVELS}", "more than 1,000 keys"),
        (f"x:\n  a0: &a0 {{x: 1}}\n  a1: {{<<: [{', '.join(['*a0'] * 1_001)}]}}\n", "more than 1,000 aliases"),
        (f"x:\n  a0: &a0 [x]\n{_LEVELS.replace('{<<: ', '').replace('}', '')}", "is not a known key"),
        ("x: &a [*a]\n", "is not a known key"),
    ],
)
def test_a_bomb_of_anchors_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(text)
    with pytest.raises(InvalidFile, match=said):
        read_yaml(EngineSpec, path)


def test_a_mapping_may_be_merged(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("tenant: demo\nname: merges\nlabels: {<<: {a: one}, b: two}\nrun: {command: [serve]}\n")
    assert read_yaml(EngineSpec, path).labels == {"a": "one", "b": "two"}


@attempt("writes YAML of countless keys, to be compared with each other", layer="bounded mistakes")
def test_countless_keys_are_read_in_time(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("".join(f"k{number}: 1\n" for number in range(5_000)))
    with pytest.raises(InvalidFile, match="and 4,902 more"):
        read_yaml(EngineSpec, path)
