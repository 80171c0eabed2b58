"""Reads the Markdown of this repository: its links, headings, tables and commands."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^( *)(```+)(\w*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ +(.*?) *#* *$", re.MULTILINE)
_CONTINUED = re.compile(r"\\\n\s*")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code."""

    language: str
    text: str

    def commands(self) -> list[str]:
        """Return the lines of a shell block, without their comments."""
        lines = _CONTINUED.sub(" ", self.text).splitlines() if self.language in ("sh", "bash", "console") else []
        return [command for line in lines if (command := line.partition(" # ")[0].strip())]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the heading above it, and its rows without the first."""

    heading: str
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Document:
    """One Markdown file."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Read the document in a file."""
        return cls(path, path.read_text())

    @property
    def name(self) -> str:
        """Return its path in the repository."""
        return str(self.path.relative_to(ROOT))

    @property
    def blocks(self) -> list[Block]:
        """Return its blocks of code, in order."""
        return [Block(language, text) for _, _, language, text in _FENCE.findall(self.text)]

    @property
    def prose(self) -> str:
        """Return its text without blocks of code."""
        return _FENCE.sub("", self.text)

    @property
    def commands(self) -> list[str]:
        """Return the commands of its shell blocks."""
        return [command for block in self.blocks for command in block.commands()]

    @property
    def spans(self) -> list[str]:
        """Return the code spans of its prose: the texts between backticks."""
        return _SPAN.findall(self.prose)

    @property
    def links(self) -> list[str]:
        """Return the targets of its links, other than URLs."""
        targets = _LINK.findall(_SPAN.sub(lambda span: span[0] if "](" not in span[1] else "", self.prose))
        return [target for target in targets if not re.match(r"[a-z]+:", target)]

    @property
    def anchors(self) -> set[str]:
        """Return the anchors of its headings, as GitHub makes them."""
        anchors: dict[str, int] = {}
        for heading in _HEADING.findall(self.prose):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
            anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            number = anchors.get(anchor, 0)
            anchors[anchor] = number + 1
            if number:
                anchors[f"{anchor}-{number}"] = 1
        return set(anchors)

    @property
    def tables(self) -> list[Table]:
        """Return its tables."""
        found: list[Table] = []
        heading, inside = "", False
        for line in self.prose.splitlines():
            if line.startswith("#"):
                heading = line.lstrip("# ")
            if not line.startswith("|"):
                inside = False
            elif re.fullmatch(r"[|\s:-]+", line):
                found.append(Table(heading, []))
                inside = True
            elif inside:
                found[-1].rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
        return found


def documents() -> Iterator[Document]:
    """Give every Markdown file of the repository, except those in folders whose names begin with a dot."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in ("dist", "node_modules")
        )
        yield from (Document.read(Path(folder, name)) for name in sorted(files) if name.endswith(".md"))
