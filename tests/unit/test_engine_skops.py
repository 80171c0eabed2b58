"""An engine of a skops file, without scikit-learn: a model as small as what the engine needs of one."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_MODULE = "enginehouse.engine.skops_model"


class _Table:
    """Stands for an array."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def tolist(self) -> list[Any]:
        return self._values


class _Model:
    n_features_in_ = 1

    def __init__(self, probabilities: Any, classes: Any) -> None:
        self.classes_ = classes
        self._probabilities = probabilities

    def predict(self, rows: Any) -> _Table:
        return _Table([0] * len(rows))

    def predict_proba(self, rows: Any) -> Any:
        return self._probabilities


@pytest.mark.parametrize(
    ("probabilities", "classes", "shown"),
    [
        (_Table([[0.25, 0.75]]), _Table(["a", "b"]), ([[0.25, 0.75]], ["a", "b"])),
        ([_Table([[0.25, 0.75]]), _Table([[1.0, 0.0]])], [_Table(["a", "b"]), _Table(["c", "d"])], (None, None)),
    ],
)
def test_probabilities_are_those_of_one_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, probabilities: Any, classes: Any, shown: Any
) -> None:
    skops, io = ModuleType("skops"), ModuleType("skops.io")
    vars(io).update(get_untrusted_types=lambda file: [], load=lambda path: _Model(probabilities, classes))
    vars(skops).update(io=io)
    monkeypatch.setitem(sys.modules, "skops", skops)
    monkeypatch.setitem(sys.modules, "skops.io", io)
    monkeypatch.setitem(sys.modules, _MODULE, ModuleType(_MODULE))  # So that it is forgotten at the end.
    del sys.modules[_MODULE]
    kind: Any = importlib.import_module(_MODULE).engine_of_skops(tmp_path / "model.skops")
    rows = kind.predict.__annotations__["data"](rows=[[1.0]])
    answer = kind().predict(rows)
    assert answer.predictions == [0]
    assert (answer.probabilities, answer.classes) == shown
