"""Files that deploying fetches come from where their tenant may read, and are what their hash says, or nothing is deployed."""

import asyncio
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.break_ins import attempt

from enginehouse.authoring.findings import Report
from enginehouse.authoring.tryout import Options, try_engine
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import Artifact
from enginehouse.contracts.tenant import Tenant
from enginehouse.local.steps import SilentSteps
from enginehouse.registry import artifacts, disk
from enginehouse.registry.artifacts import forbidden_sources
from enginehouse.registry.bundle import InvalidBundle, read_spec
from enginehouse.registry.deploy import deploy_engine, is_deployed
from enginehouse.registry.engines import Engines
from enginehouse.registry.snapshot import source_folder
from enginehouse.registry.tenants import change_tenant, remove_tenant
from enginehouse.registry.versions import read_versions

CONTENT = b"weights"


def _spec(source: str, tenant: str = "acme") -> EngineSpec:
    artifact = {"file": "models/m.bin", "from": source, "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return EngineSpec.model_validate(
        {"tenant": tenant, "name": "one", "run": {"command": ["serve"]}, "fetch": [artifact]}
    )


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("s3://models/m.bin", "s3://models/"),
        ("s3://models/a/b/m.bin", "s3://models"),
        ("file:///mnt/acme/m.bin", "file:///mnt/acme/"),
    ],
)
def test_what_lies_below_a_place_may_be_fetched(source: str, place: str) -> None:
    assert forbidden_sources(_spec(source), [place]) == []


@attempt("fetches model files from a place that is not its own", layer="places that the tenant may use")
@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("s3://models-of-others/m.bin", "s3://models"),
        ("s3://models", "s3://models"),
        ("gs://models/m.bin", "s3://models/"),
        ("s3://models/../others/m.bin", "s3://models/"),
        ("s3://models/%2e%2e/m.bin", "s3://models/"),
        ("s3://models/a//m.bin", "s3://models/"),
        ("file:///mnt/acme/../globex/m.bin", "file:///mnt/acme/"),
        ("https://models@evil.example/m.bin", "https://models/"),
    ],
)
def test_what_does_not_lie_below_it_may_not(source: str, place: str) -> None:
    (said,) = forbidden_sources(_spec(source), [place])
    assert f"acme may not fetch from {source}; it may from {place}. " in said
    assert "'enginehouse tenant fetch-from acme URL'" in said


def test_engines_of_the_platform_may_fetch_from_anywhere() -> None:
    assert forbidden_sources(_spec("s3://models/m.bin", "shared"), []) == []


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "m.bin").write_bytes(CONTENT)
    return folder


@pytest.fixture
def folder(tmp_path: Path, volume: Path) -> Path:
    folder = tmp_path / "engine"
    folder.mkdir()
    _write(folder, _spec(f"file://{volume}/m.bin"))
    return folder


def _write(folder: Path, spec: EngineSpec) -> None:
    (folder / "engine.yaml").write_text(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))


@pytest.fixture
def engines(tmp_path: Path, volume: Path) -> Path:
    home = tmp_path / "home"
    (home / "tenants" / "acme").mkdir(parents=True)
    (home / "tenants" / "acme" / "tenant.yaml").write_text(json.dumps(Tenant(name="acme").model_dump(mode="json")))
    change_tenant(home / "tenants", "acme", {"fetch_from": [f"file://{volume}/"]})
    return home / "engines"


def test_a_fetched_file_lies_in_the_copy_and_is_fetched_once(engines: Path, folder: Path, volume: Path) -> None:
    shown: list[str] = []
    spec = Engines(engines, engines.parent / "tenants").deploy(folder, show=shown.append).spec
    workload = read_versions(engines / spec.id).slots["a"]
    copy = source_folder(engines / spec.id, workload.source)
    assert (copy / "models" / "m.bin").read_bytes() == CONTENT
    assert shown == ["fetching models/m.bin: 0 MiB"]
    (volume / "m.bin").unlink()
    assert is_deployed(engines, folder, read_spec(folder / "engine.yaml"))
    deploy_engine(engines, folder)
    (copy / "models" / "m.bin").write_bytes(b"changed by the engine")
    with pytest.raises(InvalidBundle, match="it cannot be read: No such file or directory"):
        deploy_engine(engines, folder)


def test_a_file_that_a_version_has_already_is_not_fetched_for_the_next(
    engines: Path, folder: Path, volume: Path, tmp_path: Path
) -> None:
    _deploy(engines, folder)
    (volume / "m.bin").unlink()
    (folder / "code.txt").write_text("changed")
    spec = deploy_engine(engines, folder)
    workload = read_versions(engines / spec.id).slots["b"]
    assert (source_folder(engines / spec.id, workload.source) / "models" / "m.bin").read_bytes() == CONTENT
    for copy in (engines.parent / "sources" / spec.id).iterdir():
        (copy / "models" / "m.bin").unlink()
        (copy / "models" / "m.bin").symlink_to(tmp_path / "elsewhere")
    (volume / "m.bin").write_bytes(CONTENT)
    (folder / "code.txt").write_text("changed once more")
    deploy_engine(engines, folder)
    assert not (tmp_path / "elsewhere").exists(), "a link that an engine made leads nowhere"


def test_a_file_with_another_content_is_refused(engines: Path, folder: Path, volume: Path) -> None:
    (volume / "m.bin").write_bytes(b"other weights")
    with pytest.raises(InvalidBundle, match="its content has another SHA-256, where sha256 is") as refused:
        _deploy(engines, folder)
    assert hashlib.sha256(b"other weights").hexdigest() not in str(refused.value)
    _nothing_is_deployed(engines)


def test_a_link_on_a_volume_leads_nowhere(engines: Path, folder: Path, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    (volume / "m.bin").unlink()
    (volume / "m.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidBundle, match="it is a link, or lies behind one"):
        _deploy(engines, folder)
    (volume / "m.bin").unlink()
    volume.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "m.bin").write_bytes(CONTENT)
    volume.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidBundle, match="it is a link, or lies behind one"):
        _deploy(engines, folder)
    _nothing_is_deployed(engines)


@pytest.mark.timeout(30)
def test_a_pipe_or_a_folder_on_a_volume_is_no_file(engines: Path, folder: Path, volume: Path) -> None:
    opened = len(os.listdir("/proc/self/fd"))
    (volume / "m.bin").unlink()
    for make in (os.mkfifo, os.mkdir):
        make(volume / "m.bin")
        with pytest.raises(InvalidBundle, match="it is not a file"):
            _deploy(engines, folder)
        shutil.move(volume / "m.bin", volume / make.__name__)
    assert len(os.listdir("/proc/self/fd")) == opened
    _nothing_is_deployed(engines)


def test_a_file_that_is_swapped_for_a_link_while_it_is_opened_is_not_read(
    engines: Path, folder: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "m.bin").write_bytes(CONTENT)
    really_open = os.open

    def swapped_at_the_last_moment(path: Any, *flags: Any, **more: Any) -> int:
        if path == volume / "m.bin":
            volume.rename(tmp_path / "was here")
            volume.symlink_to(tmp_path / "secrets")
        return really_open(path, *flags, **more)

    monkeypatch.setattr(os, "open", swapped_at_the_last_moment)
    with pytest.raises(InvalidBundle, match="it is a link, or lies behind one"):
        _deploy(engines, folder)
    _nothing_is_deployed(engines)


@pytest.mark.parametrize(
    "name", [".cache/m.bin", ".m.bin", "__pycache__/m.bin", "models/m.pyc", "venv/pyvenv.cfg", "a.pyc/m.bin"]
)
def test_a_file_that_no_copy_would_hold_and_no_hash_would_cover_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be deployed, because a deployment leaves out"):
        Artifact.model_validate({"file": name, "from": "s3://models/m.bin", "sha256": "0" * 64})


def test_room_is_left_on_the_disk(engines: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 2**60)
    with pytest.raises(disk.DiskFull, match="are left on the disk of"):
        _deploy(engines, folder)
    _nothing_is_deployed(engines)


def test_no_engine_appears_for_a_tenant_that_was_removed_while_its_files_were_fetched(
    engines: Path, folder: Path
) -> None:
    tenants = engines.parent / "tenants"

    def remove_meanwhile(_: str) -> None:
        remove_tenant(tenants, "acme", kept=())

    with pytest.raises(InvalidBundle, match="there is no tenant 'acme'"):
        Engines(engines, tenants).deploy(folder, show=remove_meanwhile)
    assert not (engines / "acme--one").exists()


def test_a_file_that_is_too_large_is_refused(engines: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_BYTES", 3)
    with pytest.raises(InvalidBundle, match="and it has more"):
        _deploy(engines, folder)
    _nothing_is_deployed(engines)


def test_a_source_that_was_not_allowed_is_refused_before_anything_is_read(engines: Path, folder: Path) -> None:
    change_tenant(engines.parent / "tenants", "acme", {"fetch_from": []})
    with pytest.raises(InvalidBundle, match="it may from nowhere yet"):
        _deploy(engines, folder)
    _nothing_is_deployed(engines)


async def test_testing_an_engine_reports_what_cannot_be_fetched(folder: Path, volume: Path) -> None:
    (volume / "m.bin").unlink()
    report = Report(lambda _: None)
    await try_engine(folder, None, SilentSteps(), report, Options(load_seconds=1))
    assert "it cannot be read: No such file or directory" in report.findings[-1].said
    assert report.failures == 1


async def test_testing_an_engine_can_be_interrupted_while_it_fetches(
    folder: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_PART_BYTES", 1)
    (volume / "m.bin").write_bytes(bytes(50_000_000))
    shown = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Steps(SilentSteps):
        def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
            loop.call_soon_threadsafe(shown.set)

    testing = asyncio.create_task(try_engine(folder, None, Steps(), Report(lambda _: None), Options(load_seconds=1)))
    await shown.wait()
    testing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await testing


def _deploy(engines: Path, folder: Path) -> None:
    Engines(engines, engines.parent / "tenants").deploy(folder)


def _nothing_is_deployed(engines: Path) -> None:
    assert not (engines / "acme--one").exists()
    assert not [path for path in (engines.parent / "sources").rglob("*") if path.is_file()]
