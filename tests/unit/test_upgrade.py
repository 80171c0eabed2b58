"""Bundles that a former version rendered get what they lack, and keep what their owners wrote."""

import re
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import render_engine, render_tenant, write_bundle
from enginehouse.registry.upgrade import upgrade_engines, upgrade_tenants

JOBS = "slots/a/dapr/jobs.yaml"


def former(files: dict[str, str]) -> dict[str, str]:
    """Return the files as they were before components named the user of Redis."""
    return {path: re.sub(r" *- name: redisUsername\n.*\n", "", text) for path, text in files.items()}


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_user_of_redis_is_named_as_if_the_bundle_were_rendered_today(tmp_path: Path) -> None:
    present = render_engine(EngineSpec(tenant="acme", name="one"), ".")
    engines, tenants = tmp_path / "engines", tmp_path / "tenants"
    write_bundle(engines / "acme--one", former(present))
    write_bundle(engines / "acme--two", former(present))
    write_bundle(tenants / "acme", former(render_tenant(Tenant(name="acme"))))
    assert read(engines / "acme--one") != present
    upgrade_engines(engines, [engines / "acme--one" / JOBS, engines])
    upgrade_tenants(tenants, [tenants / "acme"])
    assert read(engines / "acme--one") == present
    assert read(engines / "acme--two") == former(present), "only what has changed is looked at"
    assert read(tenants / "acme") == render_tenant(Tenant(name="acme"))


def test_comments_and_what_is_set_in_another_way_stay(tmp_path: Path) -> None:
    bundle = tmp_path / "acme--one"
    files = former(render_engine(EngineSpec(tenant="acme", name="one"), "."))
    files[JOBS] = files[JOBS].replace("  metadata:\n  - name", "  # Ours.\n  metadata:\n  - name")
    own_password = files["gateway/results.yaml"].replace("envRef: ENGINEHOUSE_REDIS_PASSWORD", "value: own")
    broken = files["slots/a/dapr/results.yaml"][:-20] + "{"
    write_bundle(bundle, {**files, "gateway/results.yaml": own_password, "slots/a/dapr/results.yaml": broken})
    (bundle / "gateway" / "strange.yaml").write_bytes(b"\xff\xfe")
    upgrade_engines(tmp_path, [bundle])
    assert "# Ours." in (bundle / JOBS).read_text()
    assert "redisUsername" in (bundle / JOBS).read_text()
    assert (bundle / "gateway/results.yaml").read_text() == own_password
    assert (bundle / "slots/a/dapr/results.yaml").read_text() == broken
