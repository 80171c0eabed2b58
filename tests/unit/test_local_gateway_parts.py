"""Bundles may bring only harmless parts into the gateway's sidecar, and a broken part changes nothing."""

from pathlib import Path

import pytest
import yaml
from tests.support.break_ins import attempt

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Tenant
from enginehouse.local.gateway_parts import GatewayParts
from enginehouse.registry.bundle import RESULTS_FILE, InvalidBundle, render_engine, render_tenant, write_bundle
from enginehouse.registry.deploy import remove_engine

_ENGINE = "acme--one"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "engines" / _ENGINE
    write_bundle(folder, render_engine(EngineSpec(tenant="acme", name="one"), "."))
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> GatewayParts:
    (tmp_path / "run" / "gateway").mkdir(parents=True)
    return GatewayParts(tmp_path / "run" / "gateway")


def _files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run" / "gateway").iterdir())


def test_parts_come_and_go_with_their_bundles(parts: GatewayParts, bundle: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "tenants" / "acme", render_tenant(Tenant(name="acme")))
    parts.put(_ENGINE, bundle)
    parts.put("acme", tmp_path / "tenants" / "acme")
    assert _files(tmp_path) == ["acme--one.results.yaml", "acme.requests.yaml", "acme.subscription.yaml"]
    assert parts.owners() == {"acme", _ENGINE}
    parts.remove("acme")
    assert _files(tmp_path) == ["acme--one.results.yaml"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["gateway"], "nothing half-written is left"


@attempt("harms the gateway's sidecar by its bundle", layer="each part is checked before it is linked")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metadata": {"name": "results-globex--other"}}, "must be named results-acme--one"),
        ({"scopes": []}, "must have scopes"),
        ({"kind": "Resiliency"}, "must be a Component or a Subscription"),
        ({"spec": {"type": "state.redis"}}, "must have ignoreErrors"),
    ],
)
def test_what_could_harm_the_gateway_is_refused_and_the_last_good_part_stays(
    parts: GatewayParts, bundle: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    parts.put(_ENGINE, bundle)
    before = (tmp_path / "run" / "gateway" / "acme--one.results.yaml").read_text()
    path = bundle / "gateway" / "results.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(InvalidBundle, match=said):
        parts.put(_ENGINE, bundle)
    assert (tmp_path / "run" / "gateway" / "acme--one.results.yaml").read_text() == before


@pytest.mark.parametrize("text", ["{", "", "[]", "a: 1\n---\nb: 2\n"])
def test_what_is_no_single_object_is_refused(parts: GatewayParts, bundle: Path, text: str) -> None:
    (bundle / "gateway" / "results.yaml").write_text(text)
    with pytest.raises(InvalidBundle):
        parts.put(_ENGINE, bundle)


def test_one_name_twice_is_refused_since_it_would_stop_the_sidecar(parts: GatewayParts, bundle: Path) -> None:
    (bundle / "gateway" / "again.yaml").write_text((bundle / "gateway" / "results.yaml").read_text())
    with pytest.raises(InvalidBundle, match="two objects"):
        parts.put(_ENGINE, bundle)


def test_a_removal_is_told_whatever_is_wrong_with_the_rest(parts: GatewayParts, bundle: Path, tmp_path: Path) -> None:
    parts.put(_ENGINE, bundle)
    remove_engine(bundle.parent, _ENGINE)
    (bundle / RESULTS_FILE).write_text("{")
    with pytest.raises(InvalidBundle):
        parts.put(_ENGINE, bundle)
    assert _files(tmp_path) == ["acme--one.results.yaml", "acme--one.retired.yaml"]
    (bundle / RESULTS_FILE).unlink()
    parts.put(_ENGINE, bundle)
    assert _files(tmp_path) == ["acme--one.retired.yaml"]
    told = yaml.safe_load((tmp_path / "run" / "gateway" / "acme--one.retired.yaml").read_text())
    assert (told["metadata"]["name"], told["scopes"]) == ("retired-acme--one", ["gateway"])
