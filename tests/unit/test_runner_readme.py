"""The runner's README lists every module."""

import re
from pathlib import Path

import enginehouse.runner

FOLDER = Path(enginehouse.runner.__file__).parent


def test_the_table_lists_every_module() -> None:
    listed = re.findall(r"^\| `(\S+\.py)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    modules = [str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(listed) == sorted(modules)
