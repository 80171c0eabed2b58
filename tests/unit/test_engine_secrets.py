"""Secrets: names are strict, values are private, an engine without one does not start, and its author reads them by name."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from enginehouse.cli.app import app
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import InvalidName, RequestError
from enginehouse.engine import Engine
from enginehouse.local.engine_secrets import write_secrets
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home
from enginehouse.registry.bundle import render_engine, render_slot, write_bundle
from enginehouse.registry.secrets import SecretDoesNotExist, remove_secret, secret_names, secrets_file, set_secret
from enginehouse.registry.versions import fingerprint
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


async def test_an_engine_gets_what_it_names_and_no_more(tmp_path: Path) -> None:
    sidecar = FakeSidecar(FakeDapr(secrets={"secrets-acme--one": {"TOKEN": "värde\n", "OTHER": "x"}}))
    folder = tmp_path / "own"
    for _ in range(2):
        await write_secrets(sidecar, ID, ["TOKEN"], folder)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("TOKEN", "värde\n")]
    assert stat.S_IMODE((folder / "TOKEN").stat().st_mode) == 0o400
    with pytest.raises(LocalError, match="enginehouse engines secret set acme--one MISSING"):
        await write_secrets(sidecar, ID, ["TOKEN", "MISSING"], folder)


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
    assert "forgotten" in run("rm", "acme/one", "TOKEN")
    assert "No secret" in run("list", "acme/one")
