"""Derives the sync client from the async one. `make fix` writes it, `make check` (with --check) only compares."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "services/enginehouse/client"
SOURCE = FOLDER / "async_client.py"
TARGET = FOLDER / "sync_client.py"

_FIRST_LINE = re.compile(r'\A""".*?"""\n')
_NEW_FIRST_LINE = '"""The client, sync. Derived from `async_client.py` by `make fix`: do not edit."""\n'
_REPLACED = [
    (r"\(await ([^()]*(?:\([^()]*\))?[^()]*)\)(?=[.\[])", r"\1"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\basyncio\.to_thread\(([\w.]+)\)", r"\1()"),
    (r"^import asyncio\n", ""),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\bAsync(Client|Handle)\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"for (\w+) in ([^\n:]+):\n +yield \1\n", r"yield from \2\n"),
]


def derive(source: str) -> str:
    """The sync form of the async client's text."""
    text = _FIRST_LINE.sub(_NEW_FIRST_LINE, source)
    for pattern, replacement in _REPLACED:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    for command in (["check", "--select", "I,F401", "--fix-only"], ["format"]):
        text = _ruff([*command, "--quiet", "--stdin-filename", str(TARGET), "-"], text)
    return text


def _ruff(arguments: list[str], text: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    return subprocess.run([ruff, *arguments], input=text, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write the sync client, or say that it is not what it should be."""
    wanted = derive(SOURCE.read_text())
    if sys.argv[1:] != ["--check"]:
        TARGET.write_text(wanted)
    elif not TARGET.exists() or TARGET.read_text() != wanted:
        print(f"{TARGET.name} is not what {SOURCE.name} derives to: run 'make fix'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
