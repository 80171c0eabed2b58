"""Secrets: names are strict, values are private, an engine without one does not start, and its author reads them by name."""

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from enginehouse.cli.app import app
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import EngineDoesNotExist, InvalidName, RequestError
from enginehouse.engine import Engine
from enginehouse.local.deployment import deploy, engines_of
from enginehouse.local.engine_secrets import read_secrets, write_secrets
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home
from enginehouse.registry.bundle import render_engine, render_slot, secrets_of_slot, write_bundle
from enginehouse.registry.secrets import (
    SecretDoesNotExist,
    SecretNotDeclared,
    remove_secret,
    secret_names,
    secrets_file,
    set_secret,
)
from enginehouse.registry.versions import fingerprint, put_version, read_versions
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar

ID = "acme--one"


def spec(**fields: Any) -> EngineSpec:
    return EngineSpec.model_validate({"tenant": "acme", "name": "one", **fields})


@pytest.mark.parametrize(
    "names", [["token"], ["A B"], ["../X"], ["A", "A"], [""], ["A" * 65], [f"S{n}" for n in range(33)]]
)
def test_names_are_strict(names: list[str]) -> None:
    with pytest.raises(ValidationError, match="secrets"):
        spec(secrets=names)


def test_a_bundle_has_a_store_for_its_own_app_and_no_value() -> None:
    assert not [path for path in render_slot(spec(), "a") if "secrets" in path]
    store = yaml.safe_load(render_slot(spec(secrets=["TOKEN"]), "b")["slots/b/dapr/secrets.yaml"])
    assert (store["metadata"]["name"], store["scopes"]) == ("secrets-acme--one", ["acme--one--b"])
    assert store["spec"]["metadata"] == [{"name": "secretsFile", "envRef": "ENGINEHOUSE_SECRETS_FILE"}]


def test_values_are_kept_in_a_private_file_by_engine(tmp_path: Path) -> None:
    set_secret(tmp_path, ID, "TOKEN", "one")
    set_secret(tmp_path, ID, "OTHER", "two")
    assert secret_names(tmp_path, ID) == ["OTHER", "TOKEN"]
    assert secret_names(tmp_path, "acme--two") == []
    assert stat.S_IMODE(secrets_file(tmp_path, ID).stat().st_mode) == 0o600
    assert stat.S_IMODE(secrets_file(tmp_path, ID).parent.stat().st_mode) == 0o700
    remove_secret(tmp_path, ID, "TOKEN")
    assert secret_names(tmp_path, ID) == ["OTHER"]
    with pytest.raises(SecretDoesNotExist):
        remove_secret(tmp_path, ID, "TOKEN")
    for name, value in (("TOKEN", ""), ("TOKEN", "x" * 65_537)):
        with pytest.raises(RequestError, match="bytes"):
            set_secret(tmp_path, ID, name, value)
    for engine, name in ((ID, "no name"), ("../x", "TOKEN")):
        with pytest.raises(InvalidName):
            set_secret(tmp_path, engine, name, "x")


def test_values_that_are_set_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: set_secret(tmp_path, ID, f"S{number}", "x"), range(40)))
    assert len(secret_names(tmp_path, ID)) == 40


def test_a_changed_value_restarts_only_an_engine_that_names_it(tmp_path: Path) -> None:
    def prints() -> tuple[str, str]:
        return fingerprint(tmp_path / "engines" / ID, "a"), fingerprint(tmp_path / "engines" / "acme--two", "a")

    write_bundle(tmp_path / "engines" / ID, render_engine(spec(secrets=["TOKEN"]), "."))
    write_bundle(tmp_path / "engines" / "acme--two", render_engine(spec(name="two"), "."))
    before = prints()
    set_secret(tmp_path, ID, "TOKEN", "one")
    set_secret(tmp_path, "acme--two", "TOKEN", "one")
    after = prints()
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    assert not set_secret(tmp_path, ID, "TOKEN", "one")
    assert prints() == after, "an equal value restarts nothing"


def test_only_a_secret_that_a_version_of_a_deployed_engine_names_can_be_set(tmp_path: Path) -> None:
    engines = engines_of(Home.at(tmp_path))
    write_bundle(engines.bundles / ID, render_engine(spec(secrets=["TOKEN"]), "."))
    for engine, name, kind, said in [
        ("acme--two", "TOKEN", EngineDoesNotExist, "acme--two is not deployed here"),
        (ID, "TOKNE", SecretNotDeclared, "did you mean TOKEN?"),
        (ID, "OTHER", SecretNotDeclared, "it names TOKEN"),
        (ID, "other", InvalidName, "A-Z"),
    ]:
        with pytest.raises(kind, match=re.escape(said)):
            engines.set_secret(engine, name, "x")
    assert not secrets_file(tmp_path, ID).exists()
    put_version(engines.bundles / ID, spec(version="v2", secrets=["OTHER"]), ".", "new", promote=True)
    assert engines.set_secret(ID, "TOKEN", "x"), "the active version names it"
    assert engines.set_secret(ID, "OTHER", "x"), "the version on trial names it"


def test_a_version_that_only_lacks_a_secret_stays_on_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, folder = Home.at(tmp_path / "home"), tmp_path / "one"
    monkeypatch.setattr(Home, "is_running", lambda _: True)
    folder.mkdir()
    for version, secrets in (("v1", "[]"), ("v2", "[TOKEN]")):
        text = f"tenant: demo\nname: one\nversion: {version}\nsecrets: {secrets}\nrun: {{command: [serve]}}\n"
        (folder / "engine.yaml").write_text(text)
        deployed = deploy(home, folder)
    assert (deployed.is_update, deployed.missing_secrets(), deployed.give_up()) == (True, ["TOKEN"], False)
    assert read_versions(deployed.bundle).trial == deployed.slot
    store = deployed.bundle / secrets_of_slot(deployed.slot)
    kept = store.read_text()
    store.write_text(kept.replace("secretstores.local.file", "secretstores.hashicorp.vault"))
    assert deployed.missing_secrets() == [], "what a vault holds is not known here"
    store.write_text(kept)
    engines_of(home).set_secret("demo--one", "TOKEN", "x")
    assert deployed.missing_secrets() == []


async def test_an_engine_gets_what_it_names_and_no_more(tmp_path: Path) -> None:
    sidecar = FakeSidecar(FakeDapr(secrets={"secrets-acme--one": {"TOKEN": "värde\n", "OTHER": "x"}}))
    folder = tmp_path / "own"
    for _ in range(2):
        write_secrets(folder, await read_secrets(sidecar, ID, ["TOKEN"]))
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("TOKEN", "värde\n")]
    assert stat.S_IMODE((folder / "TOKEN").stat().st_mode) == 0o400
    with pytest.raises(LocalError, match="enginehouse engines secret set acme--one MISSING"):
        await read_secrets(sidecar, ID, ["TOKEN", "MISSING"])


def test_its_author_reads_a_secret_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class One(Engine):
        def predict(self, data: str) -> str:
            return data

    with pytest.raises(LookupError, match="secret set TENANT/ENGINE TOKEN"):
        One().secret("TOKEN")
    (tmp_path / "TOKEN").write_text("value")
    monkeypatch.setenv("ENGINEHOUSE_SECRETS_DIR", str(tmp_path))
    assert One().secret("TOKEN") == "value"


def test_commands_take_a_value_from_standard_input_and_print_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home.at(tmp_path / "home")
    write_bundle(home.engines / ID, render_engine(spec(secrets=["TOKEN"]), "."))
    value = tmp_path / "value"
    value.write_text("hidden-value\n")

    def run(*arguments: str) -> str:
        with value.open() as given:
            monkeypatch.setattr("sys.stdin", given)
            with pytest.raises(SystemExit) as ended:
                app(["engines", "secret", *arguments, "--home", str(home.path)])
        assert not ended.value.code, arguments
        said = capsys.readouterr()
        return said.out + said.err

    said = run("set", "acme/one", "TOKEN") + run("list", ID)
    assert "TOKEN" in said
    assert "hidden-value" not in said
    assert '"hidden-value"' in secrets_file(home.path, ID).read_text()
    assert "already" in run("set", "acme/one", "TOKEN")
    assert "forgotten" in run("rm", "acme/one", "TOKEN")
    assert "No secret" in run("list", "acme/one")
