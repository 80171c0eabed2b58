"""Derive the sync client from the async one, file by file. `make fix` writes it; `make check` (--check) compares."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "services/enginehouse/client"
DERIVED = {FOLDER / f"async_{name}.py": FOLDER / f"sync_{name}.py" for name in ("client", "operations", "transport")}

_FIRST_LINE = re.compile(r'\A""".*?"""\n')
_REPLACED = [
    (r"\(await ([^()]*(?:\([^()]*\))?[^()]*)\)(?=[.\[])", r"\1"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\basyncio\.get_running_loop\(\)", "None"),
    (r"\basyncio\.to_thread\(([\w.]+)(?:, )?", r"\1("),
    (r"^import asyncio\n", "import time\n"),
    (r" and event loop\b", ""),
    (r"\basync_(operations|transport)\b", r"sync_\1"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\bAsync(Client|Handle|Operations|Transport)\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_lines\b", "iter_lines"),
    (r"for (\w+) in ([^\n]+):\n +yield \1\n", r"yield from \2\n"),
    (r"\[(\w+) for \1 in (\w+)\]", r"list(\2)"),
]


def derive(source: Path) -> str:
    """Return the sync form of an async file."""
    text = source.read_text()
    for pattern, replacement in _REPLACED:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    text = _FIRST_LINE.sub(f'"""Derived from `{source.name}` by `make fix`: do not edit."""\n', text)
    for command in (["check", "--select", "I,F401", "--fix-only"], ["format"]):
        text = _ruff([*command, "--quiet", "--stdin-filename", str(DERIVED[source]), "-"], text)
    return text


def _ruff(arguments: list[str], text: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    return subprocess.run([ruff, *arguments], input=text, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write the sync files, or name the first one that is out of date."""
    for source, target in DERIVED.items():
        wanted = derive(source)
        if sys.argv[1:] != ["--check"]:
            target.write_text(wanted)
        elif not target.exists() or target.read_text() != wanted:
            print(f"{target.name} is not what {source.name} derives to: run 'make fix'", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
