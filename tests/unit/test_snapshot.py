"""A deployment is a copy of its author's folder: whatever happens to the folder changes nothing until the next one."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from tests.support.break_ins import attempt
from tests.support.waiting import until

from enginehouse.contracts.names import Slot
from enginehouse.registry import content, deploy
from enginehouse.registry.bundle import InvalidBundle, is_retired
from enginehouse.registry.content import content_hash
from enginehouse.registry.deploy import deploy_engine, forget_engine, is_deployed, remove_engine
from enginehouse.registry.disk import DiskFull
from enginehouse.registry.snapshot import hold, only_deployer, source_folder, tidy_snapshots
from enginehouse.registry.versions import read_versions

_ID = "acme--one"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my engine"
    (folder / "data").mkdir(parents=True)
    (folder / "engine.yaml").write_text("tenant: acme\nname: one\n")
    (folder / "data" / "words.txt").write_text("one")
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    return folder


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return tmp_path / "home" / "engines"


def _source(engines: Path) -> Path:
    bundle = engines / _ID
    return source_folder(bundle, read_versions(bundle).slots[_newest(bundle)].source)


def _newest(bundle: Path) -> Slot:
    versions = read_versions(bundle)
    newest = versions.wanted
    assert newest
    return newest


def _copies(engines: Path) -> list[str]:
    return sorted(path.name for path in (engines.parent / "sources" / _ID).glob("*"))


def _change(folder: Path, text: str) -> None:
    (folder / "data" / "words.txt").write_text(text)


def test_editing_moving_or_deleting_the_authors_folder_changes_nothing_until_the_next_deploy(
    folder: Path, engines: Path, tmp_path: Path
) -> None:
    deploy_engine(engines, folder)
    source = _source(engines)
    _change(folder, "two")
    folder.rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    assert (source / "data" / "words.txt").read_text() == "one"
    assert os.access(source / "run.sh", os.X_OK)
    assert content_hash(source) == source.name


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b'{"text": "\xc3\xa4"}', '{"text": "\\u00e4"}\n'),
        (b"not JSON", None),
        (b"NaN", None),
        (b" " * 70_000 + b"1", None),
    ],
    ids=["json", "no json", "nan", "too large"],
)
def test_the_authors_example_comes_along_for_the_card_if_a_card_can_carry_it(
    folder: Path, engines: Path, written: bytes, kept: str | None
) -> None:
    (folder / "example.json").write_bytes(written)
    deploy_engine(engines, folder)
    file = engines / _ID / "slots" / "a" / "example.json"
    assert (file.read_text() if file.exists() else None) == kept


def test_a_home_may_be_moved_with_its_deployments(folder: Path, engines: Path, tmp_path: Path) -> None:
    deploy_engine(engines, folder)
    engines.parent.rename(tmp_path / "moved")
    assert (_source(tmp_path / "moved" / "engines") / "engine.yaml").is_file()


@attempt("puts pipes into its folder", layer="plain files are copied")
def test_what_tools_leave_behind_is_not_copied(folder: Path, engines: Path) -> None:
    for left in (".venv/x", ".git/HEAD", "__pycache__/engine.pyc", "venv/pyvenv.cfg", "venv/bin/pip"):
        (folder / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / left).write_text("anything")
    (folder / "venv" / "bin" / "python").symlink_to("/usr/bin/env")
    os.mkfifo(folder / "pipe")
    deploy_engine(engines, folder)
    assert {path.name for path in _source(engines).iterdir()} == {"data", "engine.yaml", "run.sh"}


def test_a_program_that_becomes_one_by_its_mode_is_a_change(folder: Path, engines: Path) -> None:
    spec = deploy_engine(engines, folder)
    (folder / "run.sh").chmod(0o644)
    assert not is_deployed(engines, folder, spec)


@attempt("puts links that leave its folder, or lead in circles, into it", layer="links are followed inside only")
def test_links_inside_are_followed_and_links_that_leave_are_refused(
    folder: Path, engines: Path, tmp_path: Path
) -> None:
    (folder / "file").symlink_to("data/words.txt")
    (folder / "all").symlink_to(folder / "data")
    deploy_engine(engines, folder)
    assert (_source(engines) / "file").read_text() == (_source(engines) / "all" / "words.txt").read_text() == "one"
    assert not (_source(engines) / "all").is_symlink()

    (tmp_path / "secret").write_text("s")
    (folder / "data" / "out").symlink_to("../../secret")
    with pytest.raises(InvalidBundle, match=r"data/out is a link to .*/secret, outside of the engine's folder"):
        deploy_engine(engines, folder)
    (folder / "data" / "out").unlink()
    (folder / "data" / "loop").symlink_to("..")
    with pytest.raises(InvalidBundle, match=r"loop is a link to .* a folder that holds it"):
        deploy_engine(engines, folder)
    assert len(_copies(engines)) == 1


def test_a_folder_that_is_too_large_is_refused_with_the_limit_and_its_largest_file(
    folder: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (folder / "model.bin").open("wb") as file:
        file.truncate(5 * 1024**3)  # Sparse: it takes no room.
    with pytest.raises(InvalidBundle, match=r"holds 5\.00 GiB; .* may have 4\.00 GiB.* model\.bin \(5\.00 GiB\)"):
        deploy_engine(engines, folder)
    assert not engines.exists()
    (folder / "model.bin").unlink()
    monkeypatch.setattr(content, "MAX_FILES", 2)
    with pytest.raises(InvalidBundle, match=r"holds 3 files; a deployment may have 2"):
        deploy_engine(engines, folder)


def test_a_running_engine_keeps_its_files_while_versions_come_and_go(folder: Path, engines: Path) -> None:
    deploy_engine(engines, folder)
    running = _source(engines)
    with hold(running):
        for text in ("two", "three"):
            _change(folder, text)
            deploy_engine(engines, folder)
        assert (running / "data" / "words.txt").read_text() == "one"
        assert _copies(engines) == sorted([running.name, _source(engines).name])
        remove_engine(engines, _ID)
        assert running.name in _copies(engines)
        forget_engine(engines, _ID)
        assert _copies(engines) == [running.name]
    tidy_snapshots(engines, _ID)
    assert _copies(engines) == []


def test_a_removal_that_is_killed_among_its_files_is_gone_on_with(
    folder: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_engine(engines, folder)
    remove_engine(engines, _ID)
    with monkeypatch.context() as patch:
        patch.setattr(deploy, "remove_bundle", _killed)
        with pytest.raises(KeyboardInterrupt):
            forget_engine(engines, _ID)
    assert is_retired(engines / _ID), "the bundle is the only memory of the removal"
    forget_engine(engines, _ID)
    assert not (engines / _ID).exists()
    assert _copies(engines) == []


def _killed(*_: object) -> bool:
    raise KeyboardInterrupt


def test_a_copy_that_cannot_be_deleted_keeps_the_removal_going(
    folder: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_engine(engines, folder)
    (stuck,) = _copies(engines)
    (engines.parent / "sources" / _ID / "another").mkdir()
    remove_engine(engines, _ID)

    def refuse(path: Path) -> None:
        if path.name.endswith(stuck):
            raise PermissionError(13, "Permission denied", str(path))
        shutil.rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr("enginehouse.registry.snapshot.remove_tree", refuse)
        with pytest.raises(PermissionError):
            forget_engine(engines, _ID)
    assert is_retired(engines / _ID)
    assert _copies(engines) == [f".new-{stuck}"]
    forget_engine(engines, _ID)
    assert _copies(engines) == []


def test_what_deployments_that_were_killed_have_left_is_swept(folder: Path, engines: Path) -> None:
    deploy_engine(engines, folder)
    kept = _copies(engines)
    never_finished = engines.parent / "sources" / "acme--two" / "0123"
    for left in (engines / ".new-1" / "workloads.yaml", engines / ".old-2" / "bundle" / "x", never_finished / "x"):
        left.parent.mkdir(parents=True)
        left.write_text("left")
    (engines / ".new-3").write_text("left")
    deploy.sweep(engines)
    assert [path.name for path in engines.iterdir()] == [_ID]
    assert not never_finished.parent.exists()
    assert _copies(engines) == kept


def test_going_back_to_an_earlier_version_brings_its_files_as_they_were(folder: Path, engines: Path) -> None:
    deploy_engine(engines, folder)
    first = _source(engines)
    with hold(first):
        _change(folder, "two")
        deploy_engine(engines, folder)
    (first / "data" / "words.txt").write_text("spoilt by the engine")
    _change(folder, "one")
    deploy_engine(engines, folder)
    assert _source(engines) == first
    assert (first / "data" / "words.txt").read_text() == "one"


def test_a_copy_that_was_not_finished_is_no_deployment_and_is_removed(folder: Path, engines: Path) -> None:
    half = engines.parent / "sources" / _ID / ".new-crashed"
    half.mkdir(parents=True)
    deploy_engine(engines, folder)
    assert not half.exists()


def test_a_copy_that_is_gone_or_a_folder_that_is_live_is_not_a_deployment(folder: Path, engines: Path) -> None:
    spec = deploy_engine(engines, folder)
    shutil.rmtree(_source(engines))
    assert not is_deployed(engines, folder, spec)
    deploy_engine(engines, folder)
    assert is_deployed(engines, folder, spec)
    # As bundles were before deployments were copies.
    workloads = engines / _ID / "workloads.yaml"
    workloads.write_text(yaml.safe_dump({**yaml.safe_load(workloads.read_text()), "source": str(folder)}))
    assert not is_deployed(engines, folder, spec)


def test_copies_stay_while_somebody_edits_the_bundle(folder: Path, engines: Path) -> None:
    deploy_engine(engines, folder)
    (engines / _ID / "workloads.yaml").write_text("{")
    tidy_snapshots(engines, _ID)
    assert len(_copies(engines)) == 1


def test_deployments_at_the_same_time_come_one_after_the_other(folder: Path, engines: Path) -> None:
    deploy_engine(engines, folder)
    before = _source(engines)
    _change(folder, "two")
    other = threading.Thread(target=deploy_engine, args=(engines, folder))
    with only_deployer(engines):
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert _source(engines) == before
    other.join(10)
    until(lambda: _source(engines) != before, "the second deployment is there")
    assert (_source(engines) / "data" / "words.txt").read_text() == "two"


def test_a_full_disk_leaves_what_was_deployed_before(
    engines: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_engine(engines, folder)
    before = {path: path.read_bytes() for path in engines.parent.rglob("*") if path.is_file()}
    (folder / "data" / "words.txt").write_text("two")
    monkeypatch.setattr("enginehouse.registry.disk.free_bytes", lambda _: 1_000)
    with pytest.raises(DiskFull, match="less than 1 MiB"):
        deploy_engine(engines, folder)
    assert {path: path.read_bytes() for path in engines.parent.rglob("*") if path.is_file()} == before
