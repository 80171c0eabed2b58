"""Versions of an engine come into its two slots, and the Subscriptions alone say which of them gets its jobs."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import Slot
from enginehouse.registry.bundle import (
    ACTIVE_FILE,
    TRIAL_FILE,
    WORKLOADS_FILE,
    InvalidBundle,
    slot_folder,
    update_bundle,
)
from enginehouse.registry.versions import (
    NoOtherVersion,
    drop_trial,
    go_back,
    promote_version,
    put_version,
    read_versions,
    spec_of,
)

_ID = "acme--one"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "engines" / _ID


def _spec(version: str, **more: object) -> EngineSpec:
    return EngineSpec.model_validate({"tenant": "acme", "name": "one", "version": version, **more})


def _put(bundle: Path, version: str, *, promote: bool = True, **more: object) -> Slot:
    return put_version(
        bundle, _spec(version, **more), f"../../sources/{version}", f"hash of {version}", promote=promote
    )


def _scopes(bundle: Path, file: str) -> list[str]:
    scopes: list[str] = yaml.safe_load((bundle / file).read_text())["scopes"]
    return scopes


def test_the_authors_example_is_beside_the_engine_yaml_of_its_version_alone(bundle: Path) -> None:
    for version, example in (("v1", "1\n"), ("v2", '{"text": "x"}\n'), ("v3", "")):
        slot = put_version(bundle, _spec(version), ".", f"hash of {version}", example, promote=True)
        file = bundle / slot_folder(slot) / "example.json"
        assert (file.read_text() if file.exists() else "") == example
        if version != "v1":
            promote_version(bundle)


def test_the_first_version_is_active_and_the_next_comes_into_the_idle_slot_on_trial(bundle: Path) -> None:
    assert _put(bundle, "v1") == "a"
    assert (_scopes(bundle, ACTIVE_FILE), _scopes(bundle, TRIAL_FILE)) == ([f"{_ID}--a"], ["none"])
    before = {path: path.read_bytes() for path in (bundle / slot_folder("a")).rglob("*.yaml")}
    assert _put(bundle, "v2", concurrency=9) == "b"
    assert (_scopes(bundle, ACTIVE_FILE), _scopes(bundle, TRIAL_FILE)) == ([f"{_ID}--a"], [f"{_ID}--b"])
    assert {path: path.read_bytes() for path in (bundle / slot_folder("a")).rglob("*.yaml")} == before
    versions = read_versions(bundle)
    assert (versions.active, versions.trial, versions.promote, versions.running) == ("a", "b", "b", ["a", "b"])
    assert (spec_of(bundle, "a").version, spec_of(bundle, "b").concurrency) == ("v1", 9)


def test_promoting_swaps_the_scopes_and_going_back_brings_the_version_before_on_trial(bundle: Path) -> None:
    _put(bundle, "v1")
    _put(bundle, "v2", promote=False)
    assert read_versions(bundle).promote is None
    assert promote_version(bundle) == "b"
    assert (_scopes(bundle, ACTIVE_FILE), _scopes(bundle, TRIAL_FILE)) == ([f"{_ID}--b"], ["none"])
    assert read_versions(bundle).running == ["b"]
    assert go_back(bundle) == "a"
    versions = read_versions(bundle)
    assert (versions.active, versions.trial, versions.promote) == ("b", "a", "a")
    assert versions.slots["a"].version == "v1"
    with pytest.raises(NoOtherVersion):
        go_back(bundle)


def test_a_version_that_is_given_up_leaves_the_active_one_as_it_is(bundle: Path) -> None:
    _put(bundle, "v1")
    _put(bundle, "v2")
    assert drop_trial(bundle, read_versions(bundle).slots["b"])
    versions = read_versions(bundle)
    assert versions.slots.keys() == {"a"}, "a rollback does not offer it"
    assert (versions.active, versions.trial, versions.promote, versions.wanted) == ("a", None, None, "a")
    with pytest.raises(NoOtherVersion):
        promote_version(bundle)
    assert _put(bundle, "v3") == "b"


def test_a_crash_while_a_version_is_written_leaves_no_mixture_to_go_back_to(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(bundle, "v1")
    _put(bundle, "v2")
    promote_version(bundle)

    def killed(where: Path, files: Mapping[str, str]) -> None:
        if "slots/a/engine.yaml" in files:
            update_bundle(where, {"slots/a/engine.yaml": files["slots/a/engine.yaml"]})
            raise KeyboardInterrupt
        update_bundle(where, files)

    monkeypatch.setattr("enginehouse.registry.versions.update_bundle", killed)
    with pytest.raises(KeyboardInterrupt):
        _put(bundle, "v3")
    with pytest.raises(NoOtherVersion):
        go_back(bundle)


def test_a_vault_that_somebody_wrote_into_the_bundle_serves_the_next_version(bundle: Path) -> None:
    _put(bundle, "v1", secrets=["TOKEN"])
    store = yaml.safe_load((bundle / "slots/a/dapr/secrets.yaml").read_text())
    store["spec"]["type"] = "secretstores.hashicorp.vault"
    (bundle / "slots/a/dapr/secrets.yaml").write_text(yaml.safe_dump(store))
    _put(bundle, "v2", secrets=["TOKEN"])
    assert yaml.safe_load((bundle / "slots/b/dapr/secrets.yaml").read_text()) == {**store, "scopes": [f"{_ID}--b"]}
    _put(bundle, "v3")
    assert not (bundle / "slots/b/dapr/secrets.yaml").exists(), "it names no secrets"


def test_a_version_that_comes_back_gets_its_secrets_from_the_store_of_today(bundle: Path) -> None:
    _put(bundle, "v1", secrets=["TOKEN"])
    _put(bundle, "v2", secrets=["TOKEN"])
    promote_version(bundle)
    store = yaml.safe_load((bundle / "slots/b/dapr/secrets.yaml").read_text())
    store["spec"]["type"] = "secretstores.hashicorp.vault"
    (bundle / "slots/b/dapr/secrets.yaml").write_text(yaml.safe_dump(store))
    assert go_back(bundle) == "a"
    assert yaml.safe_load((bundle / "slots/a/dapr/secrets.yaml").read_text()) == {**store, "scopes": [f"{_ID}--a"]}


def test_the_same_version_again_changes_nothing(bundle: Path) -> None:
    for version in ("v1", "v2"):
        _put(bundle, version)
        before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*.yaml")}
        assert _put(bundle, version) == read_versions(bundle).wanted
        assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*.yaml")} == before


def test_edits_by_hand_stay_in_what_a_new_version_does_not_bring(bundle: Path) -> None:
    _put(bundle, "v1")
    subscription = yaml.safe_load((bundle / ACTIVE_FILE).read_text())
    subscription["spec"]["metadata"] = {"note": "mine"}
    (bundle / ACTIVE_FILE).write_text(yaml.safe_dump(subscription))
    _put(bundle, "v2")
    promote_version(bundle)
    assert yaml.safe_load((bundle / ACTIVE_FILE).read_text())["spec"]["metadata"] == {"note": "mine"}


def test_a_bundle_that_cannot_be_read_is_written_anew_by_the_next_version(bundle: Path) -> None:
    _put(bundle, "v1")
    (bundle / WORKLOADS_FILE).write_text("{")
    with pytest.raises(InvalidBundle, match=WORKLOADS_FILE):
        read_versions(bundle)
    assert _put(bundle, "v2") == "a"
    assert spec_of(bundle, "a").version == "v2"


def test_two_slots_cannot_both_be_active(bundle: Path) -> None:
    _put(bundle, "v1")
    subscription = yaml.safe_load((bundle / ACTIVE_FILE).read_text())
    subscription["scopes"] = [f"{_ID}--a", f"{_ID}--b"]
    (bundle / ACTIVE_FILE).write_text(yaml.safe_dump(subscription))
    with pytest.raises(InvalidBundle, match="scopes must name one slot"):
        read_versions(bundle)


def test_only_the_version_that_was_judged_is_promoted_or_given_up(bundle: Path) -> None:
    _put(bundle, "v1")
    _put(bundle, "v2")
    judged = read_versions(bundle).slots["b"]
    _put(bundle, "v3")
    with pytest.raises(NoOtherVersion, match="Another one"):
        promote_version(bundle, judged)
    assert not drop_trial(bundle, judged)
    assert read_versions(bundle).trial == "b"
    assert promote_version(bundle, read_versions(bundle).slots["b"]) == "b"


def test_a_promotion_that_broke_off_in_the_middle_is_completed_by_the_next(bundle: Path) -> None:
    _put(bundle, "v1")
    _put(bundle, "v2")
    text = (bundle / TRIAL_FILE).read_text()
    promote_version(bundle)
    (bundle / TRIAL_FILE).write_text(text)
    assert promote_version(bundle) == "b"
    assert (_scopes(bundle, ACTIVE_FILE), _scopes(bundle, TRIAL_FILE)) == ([f"{_ID}--b"], ["none"])
