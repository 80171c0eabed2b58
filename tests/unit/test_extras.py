"""How a service is imported: without what it never uses, and everything is as before at the end."""

import gc
import sys
from pathlib import Path

import pytest

from enginehouse.extras import run_main

_SERVICE = """
import gc
collects = gc.isenabled()
try:
    import rich
except ImportError:
    rich = None

def main():
    import rich as after
    return f"{collects} {rich} {gc.isenabled()} {after.__name__}"
"""


def test_a_service_is_imported_without_rich_and_without_collecting_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "the_service.py").write_text(_SERVICE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        run_main("the_service", "platform", "The service")
    assert ended.value.code == "False None True rich"
    assert gc.isenabled()


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    (tmp_path / "the_poor_service.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_main("the_poor_service", "platform", "The service")
    assert str(ended.value.code).startswith("The service needs the extra 'platform' (no_such_package is missing).")
    assert gc.isenabled()
