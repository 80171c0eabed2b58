"""Bring what the operator's policy does not allow, by every way that leads to a process: nothing of it runs."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from _pytest.mark.structures import ParameterSet
from tests.support.break_ins import Noted, attempt
from tests.support.registry import registry_settings
from tests.support.supply import (
    DIGEST,
    OTHER_DIGEST,
    REPOSITORY,
    Key,
    envelope_bundle,
    new_key,
    simple_signing,
    trivy_report,
    write_policy,
)
from tests.support.waiting import until_async

from enginehouse.audit.log import AuditLog
from enginehouse.audit.read import Query, read_page
from enginehouse.contracts.audit import AUDIT_MAX_BYTES, AuditEntry
from enginehouse.contracts.errors import EnginehouseError, NotAllowedToRun
from enginehouse.local.deployment import engines_of
from enginehouse.local.home import Home
from enginehouse.local.supply import Admission
from enginehouse.registry.bundle import InvalidBundle, read_spec
from enginehouse.registry.deploy import deploy_engine
from enginehouse.registry.http.api import create_api
from enginehouse.registry.tenants import add_key
from enginehouse.registry.unpack import pack
from enginehouse.registry.versions import spec_of
from enginehouse.supply.files import EVIDENCE_MAX_BYTES, scan_file, signature_files

_ENGINE = "demo--cats"
_POLICY = "images: [{keys: [ci.pub]}]\nscan: {fail_on_severity: high}\n"


class _World:
    """A registry over a home whose policy demands a signature and a scan report, and what starts engines there."""

    def __init__(self, folder: Path) -> None:
        self.home, self.key = Home.at(folder / "home"), new_key()
        self.operator = add_key(self.home.tenants, "demo", admin=True)
        write_policy(self.home.path, _POLICY, ci=self.key)
        for state in (self.home.path / "state.json", self.home.state_file):
            state.write_text(json.dumps({"containers": True}))
        settings = registry_settings(self.home.path, supply_dir=self.home.supply, audit_dir=self.home.audit)
        self.api = create_api(settings)
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.api),
            base_url="http://registry",
            headers={"Authorization": f"Bearer {self.operator}"},
        )
        self.audit = AuditLog(self.home.audit, "supervisor", max_bytes=AUDIT_MAX_BYTES)
        self.admission = Admission(self.home, self.audit)

    async def give(self, kind: str, content: Any, digest: str = DIGEST) -> httpx2.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        return await self.client.put(f"/v1/images/{digest}/{kind}", content=body, headers=headers)

    async def deploy(self, image: str = f"{REPOSITORY}@{DIGEST}", more: str = "") -> httpx2.Response:
        folder = self.folder(image, more)
        archive = self.home.path / "upload.zip"
        pack({"engine.yaml": folder / "engine.yaml"}, archive)
        headers = {"Content-Type": "application/zip"}
        return await self.client.post("/v1/engines", content=archive.read_bytes(), headers=headers)

    def put(self, image: str = f"{REPOSITORY}@{DIGEST}") -> None:
        """Deploy as a command on the machine does."""
        engines_of(self.home).deploy(self.folder(image))

    def folder(self, image: str, more: str = "") -> Path:
        folder = self.home.path / "engine"
        folder.mkdir(exist_ok=True)
        (folder / "engine.yaml").write_text(f"tenant: demo\nname: cats\nimage: {image}\n{more}")
        return folder

    async def start(self, *, from_image: bool = True) -> str:
        """What whoever starts engines says of the version in the bundle: its error's code, or `ok`."""
        try:
            await self.admission.admit(
                f"{_ENGINE}--a", spec_of(self.home.engines / _ENGINE, "a"), datetime.now(UTC), from_image=from_image
            )
        except EnginehouseError as error:
            return error.code
        return "ok"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[_World]:
    made = _World(tmp_path)
    writing = asyncio.create_task(made.audit.run())
    async with made.client, made.api.router.lifespan_context(made.api):
        yield made
    writing.cancel()
    await asyncio.wait([writing])
    await made.audit.close()


async def _recorded(world: _World, number: int) -> list[AuditEntry]:
    def entries() -> list[AuditEntry]:
        return [one.entry for one in read_page(world.home.audit, Query(engine=_ENGINE), None, 10).entries]

    await until_async(lambda: len(entries()) >= number, "the audit log is written", 20)
    return entries()


async def _allow(world: _World) -> None:
    assert (await world.give("signature", envelope_bundle(world.key))).status_code == 204
    assert (await world.give("scan", trivy_report("LOW"))).status_code == 204


def _each(kinds: Iterable[str], name: str, layer: str) -> list[ParameterSet]:
    """Return the kinds as parameters of a test, each an attempt."""
    return [pytest.param(kind, id=kind, marks=attempt(name.format(kind), layer=layer)) for kind in kinds]


_REFUSED: dict[str, tuple[Callable[[Key], Any], Callable[[], Any], str]] = {
    "without a signature": (lambda _: None, trivy_report, "it has no signature by ci.pub"),
    "signed by another key": (lambda _: simple_signing(new_key()), trivy_report, "its signature is not by ci.pub"),
    "with a signature that was cut": (
        lambda key: {**simple_signing(key), "Base64Signature": simple_signing(key)["Base64Signature"][:48]},
        trivy_report,
        "its signature is not by ci.pub",
    ),
    "without a scan report": (simple_signing, lambda: None, "it has no scan report"),
    "with a critical vulnerability": (simple_signing, lambda: trivy_report("CRITICAL"), "CVE-2026-1234 (critical)"),
}


@pytest.mark.parametrize("how", _each(_REFUSED, "deploys an image {}", "the registry asks the policy"))
async def test_an_image_that_lacks_what_is_demanded_is_not_deployed(world: _World, note: Noted, how: str) -> None:
    sign, scan, why = _REFUSED[how]
    for kind, content in (("signature", sign(world.key)), ("scan", scan())):
        assert content is None or (await world.give(kind, content)).status_code == 204
    answer = await world.deploy()
    note(answer.json()["detail"])
    assert (answer.status_code, answer.json()["code"]) == (403, "NOT_ALLOWED_TO_RUN")
    assert why in answer.json()["detail"]
    assert not (world.home.engines / _ENGINE).exists()


async def test_an_allowed_image_is_deployed_and_starts_and_both_are_recorded(world: _World) -> None:
    await _allow(world)
    assert (await world.deploy()).status_code == 201
    assert await world.start() == "ok"
    entries = await _recorded(world, 2)
    assert {entry.action for entry in entries} == {"start of an engine", "POST /v1/engines"}
    for entry in entries:
        assert entry.outcome == "ok"
        assert f"{DIGEST}: allowed by **, signed by ci.pub, scanned by trivy" in str(entry.detail), entry
    # Each process writes one chain, which it opens once.
    assert {chain.name for chain in world.home.audit.iterdir()} == {"supervisor", "registry"}


async def test_a_refusal_is_recorded_with_who_what_and_why(world: _World) -> None:
    await world.deploy()
    (entry,) = await _recorded(world, 1)
    assert (entry.outcome, entry.by, entry.status) == ("NOT_ALLOWED_TO_RUN", "demo", 403)
    assert f"{DIGEST} may not run here: it has no signature" in str(entry.detail)


_NAMES = {
    "by a tag": f"{REPOSITORY}:latest",
    "by a tag that looks like a digest": f"{REPOSITORY}:sha256-{'ab' * 32}",
    "by another digest": f"{REPOSITORY}@{OTHER_DIGEST}",
    "by two digests": f"{REPOSITORY}@{DIGEST}@{OTHER_DIGEST}",
}


@pytest.mark.parametrize("how", _each(_NAMES, "deploys an image {}", "the registry asks the policy"))
async def test_an_image_that_is_not_named_by_its_signed_digest_is_not_deployed(
    world: _World, note: Noted, how: str
) -> None:
    await _allow(world)
    with pytest.raises((NotAllowedToRun, InvalidBundle)) as refused:
        world.put(_NAMES[how])
    note(str(refused.value))
    assert not (world.home.engines / _ENGINE).exists()


@attempt("sets variables by which a signed and scanned image runs other code", layer="the registry asks the policy")
async def test_an_allowed_image_is_not_made_to_run_other_code_by_variables(world: _World, note: Noted) -> None:
    await _allow(world)
    run = "run:\n  command: [node, server.js]\n  env: {NODE_OPTIONS: '--import=data:text/javascript,0'}\n"
    answer = await world.deploy(more=run)
    note(answer.json()["detail"])
    assert (answer.status_code, answer.json()["code"]) == (403, "NOT_ALLOWED_TO_RUN")
    assert not (world.home.engines / _ENGINE).exists()


def _another_digest(world: _World) -> None:
    file = world.home.engines / _ENGINE / "slots" / "a" / "engine.yaml"
    file.write_text(file.read_text().replace(DIGEST, OTHER_DIGEST))


def _variables(world: _World) -> None:
    file = world.home.engines / _ENGINE / "slots" / "a" / "engine.yaml"
    file.write_text(f"{file.read_text()}\nrun: {{command: [serve], env: {{LD_PRELOAD: /usr/lib/evil.so}}}}\n")


def _folder_in_place_of_image(world: _World) -> None:
    deploy_engine(world.home.engines, world.folder("x:latest", "version: v2\nrun: {command: [python, evil.py]}"))
    bundle = world.home.engines / _ENGINE
    (bundle / "slots" / "b" / "engine.yaml").replace(bundle / "slots" / "a" / "engine.yaml")


def _link_to_a_signature(world: _World) -> None:
    (file,) = signature_files(world.home.supply, DIGEST)
    elsewhere = world.home.path / "elsewhere.json"
    file.replace(elsewhere)
    file.symlink_to(elsewhere)


def _pipe(world: _World) -> None:
    file = scan_file(world.home.supply, DIGEST)
    file.unlink()
    os.mkfifo(file)


def _gigabyte(world: _World) -> None:
    os.truncate(scan_file(world.home.supply, DIGEST), 2**30)


def _other_report(world: _World) -> None:
    file = scan_file(world.home.supply, DIGEST)
    file.write_text(json.dumps(trivy_report(digest=OTHER_DIGEST)))


def _anchors(world: _World) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    (world.home.supply / "policy.yaml").write_text("\n".join([*lines, "builds: *a11"]))


def _key_taken_off(world: _World) -> None:
    write_policy(world.home.path, _POLICY.replace("ci.pub", "new.pub"), new=new_key())


_EDITS: dict[str, Callable[[_World], None]] = {
    "another digest in the bundle": _another_digest,
    "variables for the image in the bundle": _variables,
    "a folder's code in place of the image": _folder_in_place_of_image,
    "a link in place of the signature": _link_to_a_signature,
    "a pipe in place of the report": _pipe,
    "a report of 1 GiB": _gigabyte,
    "a report of another image": _other_report,
    "the key taken off the policy": _key_taken_off,
    "a policy of YAML anchors": _anchors,
}


@pytest.mark.parametrize("edit", _each(_EDITS, "starts an engine with {}", "the policy is asked before each start"))
async def test_what_is_edited_after_it_was_deployed_does_not_start(world: _World, note: Noted, edit: str) -> None:
    await _allow(world)
    world.put()
    _EDITS[edit](world)
    note(started := await world.start())
    assert started == "NOT_ALLOWED_TO_RUN"


@attempt(
    "starts a folder's Dockerfile under an allowed digest whose image is not there",
    layer="the policy is asked before each start",
)
async def test_a_folder_is_not_built_in_place_of_an_allowed_image_that_is_missing(world: _World, note: Noted) -> None:
    await _allow(world)
    world.put()
    started = await world.start(from_image=False)
    note(started)
    assert started == "NOT_ALLOWED_TO_RUN"


_UPLOADS: dict[str, tuple[str, Any, int]] = {
    "a signature of another image": ("signature", envelope_bundle(new_key(), OTHER_DIGEST), 422),
    "an attestation as a signature": ("signature", envelope_bundle(new_key(), predicate="https://slsa.dev/v1"), 422),
    "a report of another image": ("scan", trivy_report(digest=OTHER_DIGEST), 422),
    "a report nested 100,000 deep": ("scan", b'{"SchemaVersion":' + b"[" * 100_000, 422),
    "a signature of 1 MiB": ("signature", b'{"a": "' + b"x" * 2**20, 413),
    "a report that is too large": ("scan", b" " * (EVIDENCE_MAX_BYTES["scan"] + 1), 413),
    "a report that is no text": ("scan", b"\xff\xfe\x00", 422),
}


@pytest.mark.parametrize("what", _each(_UPLOADS, "gives as evidence {}", "the registry reads it first"))
async def test_what_is_no_evidence_of_the_image_does_not_replace_what_is(world: _World, note: Noted, what: str) -> None:
    await _allow(world)
    kind, content, status = _UPLOADS[what]
    files = {path: path.read_bytes() for path in world.home.supply.rglob("*.json")}
    answer = await world.give(kind, content)
    note(answer.json()["detail"])
    assert answer.status_code == status
    assert len(files) == 2
    assert {path: path.read_bytes() for path in world.home.supply.rglob("*.json")} == files


@attempt(
    "has evidence written through a link, or by a digest that is a path",
    layer="files are replaced, and digests have one form",
)
async def test_evidence_is_written_to_no_other_place(world: _World, note: Noted, tmp_path: Path) -> None:
    await _allow(world)
    mark = tmp_path / "mark"
    mark.write_text("mine")
    file = scan_file(world.home.supply, DIGEST)
    file.unlink()
    file.symlink_to(mark)
    assert (await world.give("scan", trivy_report("LOW"))).status_code == 204
    assert mark.read_text() == "mine"
    assert not file.is_symlink()
    for digest in ("..%2f..%2fetc", "sha256:" + "A" * 64, "sha256:" + "ab" * 31, "sha512:" + "ab" * 32):
        assert (await world.give("scan", trivy_report("LOW"), digest)).status_code in (404, 422)
    note("422, and the link replaced")


@attempt("learns from a refusal what the policy says of others", layer="reasons about the own image only")
async def test_a_refusal_tells_nothing_of_other_tenants(world: _World, note: Noted) -> None:
    theirs = "builds: [globex--secret]\nimages: [{glob: registry.example/globex/**, keys: [globex.pub]}]\n"
    told = []
    for text in (theirs, f"{theirs}buils: [globex--secret]\n"):
        write_policy(world.home.path, text, globex=new_key())
        for from_image in (True, False):
            spec = read_spec(world.folder(f"{REPOSITORY}@{DIGEST}") / "engine.yaml")
            with pytest.raises(NotAllowedToRun) as refused:
                await world.admission.admit(f"{_ENGINE}--a", spec, datetime.now(UTC), from_image=from_image)
            told.append(str(refused.value))
    note(told[0])
    assert not [one for one in told if "globex" in one]


@attempt("gives evidence as a tenant", layer="operators' keys only")
async def test_only_an_operator_gives_evidence(world: _World, note: Noted) -> None:
    tenant = add_key(world.home.tenants, "acme", admin=False)
    for key in ("", "nonsense", tenant):
        world.client.headers["Authorization"] = f"Bearer {key}"
        assert (await world.give("scan", trivy_report("LOW"))).status_code in (401, 403)
    note("401 and 403")
