"""Refuse a stranger's Dockerfile that would have the Docker Engine itself fetch something: it does so from the host.

What a build runs is in containers without a network. But images that `FROM` and `--from` name are pulled, and what `ADD`
names is downloaded, by the Docker Engine, which reaches what the host does.
"""

import re

from enginehouse.contracts.program import has_digest
from enginehouse.registry.bundle import InvalidBundle

BASE = "${BASE}"
_WORD = re.compile(r"\s*([A-Za-z]+)\b(.*)")
_FROM = re.compile(r"\s+([^\s-]\S*)(?:\s+AS\s+([\w.-]+))?\s*", re.IGNORECASE | re.ASCII)
_CONTINUED = re.compile(r"\\[ \t]*\n")
_TAKES = re.compile(r"--from(?:=(\S*))?", re.IGNORECASE)
_DIRECTIVE = re.compile(r"\s*#\s*(escape|syntax)\s*=", re.IGNORECASE)


def images_of(text: str) -> set[str]:
    """Return the images, by digest, that a Dockerfile takes beside its base. None of them may be pulled.

    Raise InvalidBundle if it is written so that others could be taken, or something downloaded.
    """
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    # An instruction begins at the beginning of a line. Lines that only continue one are looked at in the same way.
    read = _Reading()
    for line in lines:
        read.line(line)
    whole = _CONTINUED.sub("", "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#")))
    if len(_TAKES.findall(whole)) > sum(len(_TAKES.findall(line)) for line in lines):
        raise InvalidBundle("Dockerfile: write each --from on one line")
    return read.images


class _Reading:
    """What is known of a Dockerfile after so many lines."""

    def __init__(self) -> None:
        self.images: set[str] = set()
        self._stages: list[str] = []

    def line(self, line: str) -> None:
        """Read one line."""
        if directive := _DIRECTIVE.match(line):
            raise InvalidBundle(f"Dockerfile: remove the directive '{directive[1]}', which is not used here")
        instruction, rest = found.groups() if (found := _WORD.match(line)) else ("", "")
        if instruction.upper() in ("ADD", "ONBUILD"):
            raise InvalidBundle(f"Dockerfile: {line.strip()[:100]!r} may fetch something: use COPY, from the folder")
        if instruction.upper() == "FROM":
            self._begin_stage(line, rest)
        for image in _TAKES.findall(line):
            if not (image.isdecimal() and int(image) < len(self._stages)):
                self._take(image)

    def _begin_stage(self, line: str, rest: str) -> None:
        found = _FROM.fullmatch(rest)
        if found is None:
            raise InvalidBundle(f"Dockerfile: {line.strip()[:100]!r}: write `FROM {BASE}` on one line, without options")
        image, stage = found.groups()
        if image not in ("$BASE", BASE, "scratch"):
            self._take(image)
        self._stages.append((stage or "").lower())

    def _take(self, image: str) -> None:
        if image and image.lower() in self._stages:
            return
        if not has_digest(image) or "$" in image:
            raise InvalidBundle(
                f"Dockerfile: it takes the image {image[:200]!r}; write `FROM {BASE}`, or name an image by its digest, "
                "such as registry.example/python@sha256:…"
            )
        self.images.add(image)
