"""The documents are right: links lead somewhere, commands exist, and lists and tables match the code."""

import ast
import functools
import re
import shlex
from pathlib import Path
from typing import Any, get_origin

import pytest
import typer
from pydantic import BaseModel
from tests.support import generate_docs
from tests.support.documents import ROOT, Document, Table, documents

from enginehouse.cli.app import app
from enginehouse.contracts.base import model_in, variable
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.job import TRANSITIONS, JobErrorCode
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.registry.settings import RegistrySettings
from enginehouse.runner.settings import RunnerSettings

_ALL = list(documents())
_CODE = ROOT / "services" / "enginehouse"
_DOCS = ROOT / "docs"


def _settings(model: type[BaseModel], parent: str = "") -> list[str]:
    """Return the settings of a file, such as `run.command`."""
    found = []
    for name, field in model.model_fields.items():
        path, inner = parent + (field.alias or name), model_in(field.annotation)
        listed = "[]" if get_origin(field.annotation) is list else ""
        found += _settings(inner, f"{path}{listed}.") if inner else [path]
    return found


_each = pytest.mark.parametrize("document", _ALL, ids=lambda document: document.name)


@_each
def test_every_link_leads_to_a_file_and_an_anchor_in_it(document: Document) -> None:
    wrong = []
    for link in document.links:
        target, _, anchor = link.partition("#")
        path = (document.path.parent / target).resolve() if target else document.path
        if not path.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and path.suffix == ".md" and anchor not in Document.read(path).anchors:
            wrong.append(f"{link}: no such heading")
    assert not wrong


class TestCommands:
    """Commands that are named in prose or in blocks of code."""

    @_each
    def test_every_make_target_exists(self, document: Document) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = {target for command in _named(document, "make") for target in command.split()[1:2]}
        assert named <= targets

    @_each
    def test_every_command_of_enginehouse_and_its_options_exist(self, document: Document) -> None:
        wrong = {command: problem for command in _named(document, "enginehouse") if (problem := _problem(command))}
        assert not wrong

    @pytest.mark.parametrize(
        ("command", "problem"),
        [
            ("enginehouse submit standard --input '{}' --wait", ""),
            ("enginehouse engines", ""),
            ("enginehouse sumbit standard", "no command 'sumbit'"),
            ("enginehouse engines deplyo my-engine", "no command 'deplyo' of 'engines'"),
            ("enginehouse submit standard --inptu 1", "no option '--inptu' of 'submit'"),
        ],
    )
    def test_a_wrong_command_is_found(self, command: str, problem: str) -> None:
        assert _problem(command) == problem


def _named(document: Document, program: str) -> list[str]:
    return [command for command in [*document.commands, *document.spans] if command.startswith(f"{program} ")]


@functools.cache
def _all_commands() -> Any:
    return typer.main.get_command(app)


def _problem(line: str) -> str:
    """What is wrong with a command line of ours, or nothing."""
    command = _all_commands()
    path: list[str] = []
    for word in shlex.split(line)[1:]:
        # A group without a command lists, so it has the options of its `list`.
        listing = getattr(command, "commands", {}).get("list")
        parameters = [*command.params, *(listing.params if listing else [])]
        options = {option for parameter in parameters for option in parameter.opts} | {"--help"}
        of = f" of {path[-1]!r}" if path else ""
        if word.startswith("--") and word.partition("=")[0] not in options:
            return f"no option {word!r}{of}"
        # What follows a command that has no commands of its own is its arguments.
        commands = getattr(command, "commands", {})
        if word in commands:
            command, path = commands[word], [*path, word]
        elif commands and word.islower() and not word.startswith("-"):
            return f"no command {word!r}{of}"
    return ""


_NAMED = re.compile(r"`((?:[\w-]+/)*(?:\w+\.py|[\w-]+/))`")


def _listed(document: Document) -> set[str]:
    """The modules and folders that the tables of a README list in their first column, as paths in its folder.

    Under a heading that names a folder in backticks, names are those of files in that folder.
    """
    folder, found = document.path.parent, set()
    for table in document.tables:
        (above,) = re.findall(r"`([\w/-]+)/`", table.heading)[:1] or [""]
        for row in table.rows:
            for name in _NAMED.findall(row[0]):
                inside = f"{above}/{name}" if above else name
                found.add(inside if (folder / inside).exists() else name)
    return found


def _modules(folder: Path) -> set[str]:
    """All modules below a folder that a table has to list."""
    paths = {path.relative_to(folder) for path in folder.rglob("*.py")}
    return {str(path) for path in paths if not path.name.startswith("__")}


def _missing(listed: set[str], modules: set[str]) -> set[str]:
    """Modules that are neither listed nor in a folder that is; where modules of a folder are listed, all of them are."""

    def covered(module: str) -> bool:
        if module in listed:
            return True
        folders = [f"{parent}/" for parent in Path(module).parents if str(parent) != "."]
        return any(folder in listed for folder in folders)

    return {module for module in modules if not covered(module)}


_READMES = {
    str(document.path.parent.relative_to(_CODE)): document
    for document in _ALL
    if document.path.name == "README.md" and document.path.is_relative_to(_CODE) and _listed(document)
}


class TestModules:
    """Tables of modules in the README of a package."""

    @pytest.mark.parametrize("package", sorted(_READMES))
    def test_a_readme_lists_exactly_the_modules_of_its_folder(self, package: str) -> None:
        folder, listed = _CODE / package, _listed(_READMES[package])
        gone = {name for name in listed if not (folder / name).exists()}
        missing = _missing(listed, _modules(folder))
        assert not gone, f"{package}/README.md lists what is not there"
        assert not missing, f"{package}/README.md does not list all modules"

    def test_names_are_read_from_the_first_column_and_folders_stand_for_what_is_in_them(self) -> None:
        readme = Document(
            _CODE / "gateway" / "README.md",
            "| file | what |\n| --- | --- |\n| `app.py`, `http/routes/` | `no.py` |\n| `ledger/` | |\n| `POST /x` | |\n"
            "### `notify/`\n| file | what |\n| --- | --- |\n| `notifier.py` | |\n",
        )
        listed = _listed(readme)
        assert listed == {"app.py", "http/routes/", "ledger/", "notify/notifier.py"}
        modules = {"app.py", "http/routes/jobs.py", "http/front.py", "ledger/migrations/env.py", "notify/notifier.py"}
        assert _missing(listed, modules) == {"http/front.py"}


class TestTables:
    """Tables that say what the code says."""

    def test_the_changes_of_state_are_those_of_the_code(self) -> None:
        (table,) = [table for table in Document.read(_DOCS / "flow.md").tables if table.heading == "Its states"]
        rows = [[re.findall(r"`(\w+)`", cell) for cell in row[:3]] for row in table.rows]
        said = {(before, event, after) for (event,), befores, (after,) in rows for before in befores}
        assert said == {(change.before, change.event, change.after) for change in TRANSITIONS}

    def test_the_table_of_engine_yaml_has_every_setting(self) -> None:
        (table,) = [table for table in Document.read(_DOCS / "engines.md").tables if table.heading == "Its engine.yaml"]
        named = [name for row in table.rows for name in re.findall(r"`([^`]+)`", row[0])]
        assert sorted(named) == sorted(_settings(EngineSpec))

    @pytest.mark.parametrize("table", Document.read(_DOCS / "glossary.md").tables, ids=lambda table: table.heading)
    def test_what_the_glossary_names_is_in_the_module_that_it_names(self, table: Table) -> None:
        for term, _, module in table.rows:
            (link,) = re.findall(r"\]\(([^)]+)\)", module)
            defined = _defined((_DOCS / link).read_text())
            assert set(re.findall(r"`(\w+)`", term)) <= defined, f"{term} is not in {link}"

    def test_every_term_of_the_glossary_stands_there_once(self) -> None:
        terms = [row[0] for table in Document.read(_DOCS / "glossary.md").tables for row in table.rows]
        assert len(terms) == len(set(terms))

    def test_variables_that_the_documents_name_are_read_somewhere(self) -> None:
        code = "".join(path.read_text() for path in _CODE.rglob("*.py"))
        settings = {
            variable(kind, name)
            for kind in (GatewaySettings, RegistrySettings, RunnerSettings)
            for name in kind.model_fields
        }
        named = {
            name
            for document in _ALL
            if document.path.name != "CHANGELOG.md"
            for name in re.findall(r"\bENGINE(?:HOUSE)?_[A-Z_]*[A-Z]\b", document.text)
        }
        assert {name for name in named if name not in settings and name not in code} == set()


def _defined(source: str) -> set[str]:
    """The names that a module defines."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


class TestGenerated:
    """Documents that are generated from the code."""

    @pytest.mark.parametrize("name", generate_docs.PARTS)
    def test_a_document_is_what_the_code_says(self, name: str) -> None:
        document = generate_docs.DOCS / name
        assert document.read_text() == generate_docs.generate(document), "run 'make fix'"

    def test_check_names_the_document_that_is_out_of_date_and_the_way_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in generate_docs.PARTS:
            (tmp_path / name).write_text((generate_docs.DOCS / name).read_text())
        settings = tmp_path / "settings.md"
        settings.write_text(settings.read_text().replace("ENGINEHOUSE_GATEWAY_PORT", "ENGINEHOUSE_GATEWAY_HARBOUR"))
        monkeypatch.setattr(generate_docs, "DOCS", tmp_path)
        monkeypatch.setattr("sys.argv", ["generate_docs.py", "--check"])
        assert generate_docs.main() == 1
        said = capsys.readouterr().err
        assert "docs/settings.md" in said
        assert "make fix" in said
        monkeypatch.setattr("sys.argv", ["generate_docs.py"])
        assert generate_docs.main() == 0
        assert settings.read_text() == (_DOCS / "settings.md").read_text()

    def test_a_document_without_a_place_for_its_part_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "http.md").write_text("# The HTTP API\n")
        with pytest.raises(ValueError, match=r"http\.md needs a line"):
            generate_docs.generate(tmp_path / "http.md")

    def test_what_stands_outside_of_the_generated_parts_is_kept(self, tmp_path: Path) -> None:
        text = (generate_docs.DOCS / "http.md").read_text() + "\nWritten by hand.\n"
        (tmp_path / "http.md").write_text(text)
        assert generate_docs.generate(tmp_path / "http.md") == text

    def test_every_call_is_listed_with_who_may_make_it(self) -> None:
        said = generate_docs.http_tables()
        may = generate_docs.callers()
        calls = {
            (method.upper(), path)
            for path, operations in generate_docs.openapi()["paths"].items()
            for method in operations
        }
        assert set(may) == calls
        assert all(f"| {method} | `{path}` |" in said for method, path in calls)
        assert may["POST", "/v1/engines/{engine}/purge"] == "administrators"
        assert may["POST", "/v1/jobs"] == "every tenant"
        assert may["GET", "/healthz/live"] == "everybody"

    def test_every_code_that_a_job_can_fail_with_is_listed(self) -> None:
        assert all(f"| `{code}` |" in generate_docs.job_errors_table() for code in JobErrorCode)

    def test_no_secret_has_a_default_to_show(self) -> None:
        for kind in (GatewaySettings, RunnerSettings):
            rows = [line for line in generate_docs.settings_table(kind).splitlines() if "| secret |" in line]
            assert rows
            assert all("| secret | **required** |" in row or "| secret | none |" in row for row in rows)
