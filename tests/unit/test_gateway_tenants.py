"""The tenants' files are read again while the gateway runs, and a broken file changes nothing for other tenants."""

import asyncio
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.support.gateway import GatewayWorld, gateway_world, make_tenant
from tests.support.waiting import until_async

from enginehouse.contracts.tenant import Limits
from enginehouse.gateway.pace import Pace
from enginehouse.gateway.tenants.tenants import Tenants

EVENT = b'{"specversion":"1.0","id":"1","source":"/s","type":"com.example.t","engineid":"echo"}'


def file_of(folder: Path, tenant: str) -> Path:
    return folder / "tenants" / tenant / "tenant.yaml"


async def status(world: GatewayWorld, tenant: str) -> int:
    return (await world.client(tenant).get("/v1/jobs")).status_code


UNREADABLE = {
    "no UTF-8": b"name: \xff\xfe",
    "no YAML": b"{",
    "no tenant": b"[]",
    "a date that is none": b"name: 2026-99-99",
    "10,000 levels": b"[" * 10_000,
}


@pytest.mark.parametrize("garbage", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_file_that_cannot_be_read_keeps_no_key_of_others_alive(tmp_path: Path, garbage: bytes) -> None:
    async with gateway_world(tmp_path) as world:
        assert await status(world, "umbra") == 200
        file_of(tmp_path, "acme").write_bytes(garbage)
        make_tenant(tmp_path / "tenants", "umbra")

        async def revoked() -> bool:
            return await status(world, "umbra") == 401

        await until_async(revoked)
        assert await status(world, "acme") == 200, "it stays as it was"


async def test_a_look_that_fails_is_logged_and_looked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Tenants.load
    failed: list[bool] = []

    def once_broken(self: Tenants) -> None:
        if not failed:
            failed.append(True)
            raise RuntimeError("broken")
        load(self)

    async with gateway_world(tmp_path, pace=Pace(task_restart_seconds=0.01)) as world:
        monkeypatch.setattr(Tenants, "load", once_broken)
        with capture_logs() as logs:
            make_tenant(tmp_path / "tenants", "umbra")

            async def revoked() -> bool:
                return await status(world, "umbra") == 401

            await until_async(revoked)
        assert [(line["action"], line["task"]) for line in logs if line["log_level"] == "error"] == [
            ("task_failed", "tenants")
        ]


async def test_an_event_of_a_tenant_whose_file_cannot_be_read_comes_again(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        make_tenant(tmp_path / "tenants", "globex")
        path = file_of(tmp_path, "globex")
        kept = path.read_bytes()
        path.write_bytes(b"\xff")
        with capture_logs() as logs:
            assert not await world.gateway.events.deliver(EVENT, "globex")
        assert [line["tenant"] for line in logs if line["action"] == "event_without_tenant"] == ["globex"]
        path.write_bytes(kept)
        world.gateway.tenants.load()
        assert await world.gateway.events.deliver(EVENT, "globex")


class ConfigMap:
    """A folder as a kubelet mounts a ConfigMap or Secret: it changes as a whole, by a link that is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def swap(self, files: dict[str, bytes]) -> None:
        """Let it hold these files, in the steps in which a kubelet does it."""
        before = (self.folder / "..data").resolve() if (self.folder / "..data").exists() else None
        content = Path(tempfile.mkdtemp(prefix="..2026_", dir=self.folder))
        for name, data in files.items():
            (content / name).write_bytes(data)
        (self.folder / "..data_tmp").symlink_to(content.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for link in self.folder.glob("[!.]*"):
            if link.name not in files:
                link.unlink()
        if before is not None:
            shutil.rmtree(before)


def _files_of(folder: Path, *tenants: str) -> dict[str, bytes]:
    return {f"{tenant}.yaml": (folder / tenant / "tenant.yaml").read_bytes() for tenant in tenants}


async def test_the_tenants_of_a_mounted_config_map_are_read_again_when_it_is_swapped(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        made = tmp_path / "tenants"
        mounted = ConfigMap(tmp_path / "mounted")
        mounted.swap(_files_of(made, "acme", "umbra"))
        tenants, stop = Tenants(mounted.folder), asyncio.Event()
        watching = asyncio.create_task(tenants.watch(stop))
        assert [tenants.get(name) is not None for name in ("acme", "umbra", "globex")] == [True, True, False]
        assert tenants.find(f"Bearer {world.keys['acme']}")
        assert [tenants.may_exist(name) for name in ("acme", "globex")] == [True, False]
        # Twice, because the second swap removes the folder in which the first one's files lie.
        for weight in (2, 3):
            new_key = make_tenant(made, "acme", limits=Limits(weight=weight))
            make_tenant(made, "globex")
            mounted.swap(_files_of(made, "acme", "globex"))
            await until_async(partial(tenants.find, f"Bearer {new_key}"))
            assert tenants.weights() == {"acme": weight}
        assert not tenants.find(f"Bearer {world.keys['acme']}")
        assert [tenants.may_exist(name) for name in ("acme", "umbra", "globex")] == [True, False, True]
        stop.set()
        await watching


async def test_a_file_of_a_config_map_that_cannot_be_read_leaves_its_tenant_as_it_was(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        mounted = ConfigMap(tmp_path / "mounted")
        files = _files_of(tmp_path / "tenants", "acme", "umbra")
        mounted.swap(files)
        tenants = Tenants(mounted.folder)
        for broken in (b"{", files["umbra.yaml"]):
            mounted.swap({**files, "acme.yaml": broken})
            with capture_logs() as logs:
                tenants.load()
            assert [line["tenant"] for line in logs] == ["acme"]
            assert tenants.find(f"Bearer {world.keys['acme']}")
            assert tenants.may_exist("acme")
            assert tenants.find(f"Bearer {world.keys['umbra']}")


def test_a_folder_goes_before_a_file_of_the_same_tenant(tmp_path: Path) -> None:
    make_tenant(tmp_path, "acme")
    old = _files_of(tmp_path, "acme")["acme.yaml"]
    key = make_tenant(tmp_path, "acme")
    (tmp_path / "acme.yaml").write_bytes(old)
    tenants = Tenants(tmp_path)
    assert len(tenants._callers) == 1
    assert tenants.find(f"Bearer {key}")
