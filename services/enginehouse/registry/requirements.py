"""Find the files of an engine's folder that its Python environment is made from. Refuse requirements that leave it."""

import codecs
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from enginehouse.registry.bundle import ENGINE_FILE, InvalidBundle
from enginehouse.registry.content import deployed_files

UV_CONFIG = "uv.toml"
"""Settings of uv beside the requirements, for example to leave a dependency out."""

_INCLUDE = ("-r", "--requirement", "--requirements", "-c", "--constraint", "--constraints")
_WHEELS = ("-f", "--find-links")
_EDITABLE = ("-e", "--editable")
_OPTION = re.compile(r"(-\w|--[\w-]+)(?:\s*=\s*|\s+|$)(.*)")
_AT_PLACE = re.compile(r"[\w.-]+\s*(?:\[[^\]]*\])?\s*@\s*(.+)")
_FILE_URL = re.compile(r"(?:\w+\+)?file:(?://(?:localhost)?)?(.*)")
_COMMENT = re.compile(r"(^|\s)#.*")
_AFTER_PACKAGE = re.compile(r"\s;|;\s|\s--")
_EXTRAS = re.compile(r"\[[^\]]*\]$")
_ARCHIVE = re.compile(r".*\.(whl|zip|tgz|tbz|tlz|txz|tar(\.\w+)?)", re.IGNORECASE)
_ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def environment_files(folder: Path, requirements: str | None, wheel: str | None = None) -> dict[str, Path]:
    """Return every file in `folder` that an environment with these requirements is made from, by path below it.

    These are the requirements, the files that they include, the wheels and packages in the folder that they name, the
    engine's own `wheel`, and `uv.toml`. Raise InvalidBundle if they name a file that is missing or not deployed with
    the folder.
    """
    search = _Search(folder)
    if wheel in search.deployed:
        search.found.add(wheel)
    if requirements:
        search.include(requirements, "", f"{folder / ENGINE_FILE}: run.requirements")
    if UV_CONFIG in search.deployed:
        search.include(UV_CONFIG, "", str(folder))
    return {name: search.deployed[name] for name in sorted(search.found)}


class _Search:
    """Follows the requirements of one folder."""

    def __init__(self, folder: Path) -> None:
        self.deployed = deployed_files(folder)
        self.found: set[str] = set()
        self._folder = folder

    def include(self, place: str, base: str, where: str) -> None:
        """Add a file of requirements, and everything that it names. `where` says in messages who names the file."""
        found = self._deployed_at(place, base, where)
        if posixpath.normpath(posixpath.join(base, place)) not in found:
            raise InvalidBundle(f"{where}: {place} is a folder, and must be a file.")
        for name in found:
            if name not in self.found:
                self.found.add(name)
                self._read_toml(name) if name.endswith(".toml") else self._read_lines(name)

    def _read_lines(self, name: str) -> None:
        # uv reads included files and folders of wheels relative to the including file, packages relative to the project.
        beside = posixpath.dirname(name)
        for line in _lines(self.deployed[name]):
            where = f"{self._folder / name}: '{line}'"
            option = _OPTION.fullmatch(line)
            kind, value = option.groups() if option else ("", line)
            if kind in _INCLUDE:
                place = _path(value)
                if place is None:
                    raise InvalidBundle(f"{where}: such a file may change unnoticed. Copy it into the engine's folder.")
                self.include(place, beside, where)
            elif kind in _WHEELS and (place := _path(value)):
                self.found |= self._deployed_at(place, beside, where)
            elif kind in ("", *_EDITABLE) and (place := _package_path(value)):
                self.found |= self._deployed_at(place, "", where)

    def _read_toml(self, name: str) -> None:
        """Add whatever exists of the files that the texts in a TOML file name. Its keys need not be known for that."""
        try:
            content = tomllib.loads(_text(self.deployed[name]))
        except tomllib.TOMLDecodeError as error:
            raise InvalidBundle(f"{self._folder / name} is not TOML: {error}") from None
        for text in filter(None, _texts(content)):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(name), _package_path(text) or text))
            self.found |= self._below(place)

    def _deployed_at(self, place: str, base: str, where: str) -> set[str]:
        """Return the names of the deployed file at a place, or of all files in the folder there."""
        path = posixpath.normpath(posixpath.join(base, place))
        if path.startswith(("/", "../")) or path == ".." or "${" in path:
            raise InvalidBundle(
                f"{where}: this is not in the engine's folder, which alone is deployed. "
                "Copy it into the folder, and name it by its path from there."
            )
        found = self._below(path)
        if not found:
            left_out = " that is deployed (names with a leading dot, caches and virtual environments are left out)"
            reason = left_out if (self._folder / path).exists() else ""
            raise InvalidBundle(f"{where}: there is no file {path} in {self._folder}{reason}.")
        return found

    def _below(self, path: str) -> set[str]:
        if path == ".":
            return set(self.deployed)
        return {name for name in self.deployed if name == path or name.startswith(f"{path}/")}


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a requirements file, continued ones joined, without comments."""
    for line in re.sub(r"\\\r?\n", " ", _text(path)).splitlines():
        if stripped := _COMMENT.sub("", line).strip():
            yield stripped


def _text(path: Path) -> str:
    content = path.read_bytes()
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding, errors="replace")


def _path(value: str) -> str | None:
    """Return the path that the value of an option names. None: it names a place elsewhere."""
    plain = value.strip().strip("'\"").replace("\\", "")
    if url := _FILE_URL.fullmatch(plain):
        return unquote(url[1])
    return None if "://" in plain else plain


def _package_path(requirement: str) -> str | None:
    """Return the path of the wheel or folder that a requirement names. None: it names a package of an index."""
    text = _AFTER_PACKAGE.split(requirement, maxsplit=1)[0]
    at_place = _AT_PLACE.fullmatch(text)
    path = _path(_EXTRAS.sub("", (at_place[1] if at_place else text).partition("#")[0].strip()))
    if path and (at_place or "/" in path or path in (".", "..") or _ARCHIVE.fullmatch(path)):
        return path
    return None


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)
