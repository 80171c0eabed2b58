"""Serve a scikit-learn model that skops saved. Only types that skops trusts are loaded, so no code of a file runs."""

from pathlib import Path
from typing import Annotated, Any

import skops.io
from pydantic import BaseModel, ConfigDict, Field, create_model

from enginehouse.contracts.errors import InvalidInput
from enginehouse.engine.base import Engine
from enginehouse.engine.model_file import UnusableModel


class Predicted(BaseModel):
    """What the model says about each row."""

    predictions: list[Any]
    probabilities: list[list[float]] | None = None
    """A number for each of `classes`, if the model has probabilities and one output."""
    classes: list[Any] | None = None


def engine_of_skops(path: Path) -> type[Engine]:
    """Return an engine for the model: `{"rows": […]}` gives `{"predictions": […], "probabilities"?, "classes"?}`.

    A row is a list with a number for each feature, or whatever a pipeline takes that does not say, such as a text.
    Raise UnusableModel if the file cannot be read, or needs types that skops does not trust.
    """
    model: Any = None
    try:
        untrusted = skops.io.get_untrusted_types(file=path)
        if not untrusted:
            model = skops.io.load(path)
    except Exception as error:
        raise UnusableModel(f"{path}: skops cannot read it: {type(error).__name__}: {error}") from None
    if untrusted:
        raise UnusableModel(
            f"{path}: it holds {', '.join(untrusted[:5])}, which skops does not trust, so it is not loaded. "
            "Bring a model like that as an engine with code of its own"
        )
    if not callable(getattr(model, "predict", None)):
        raise UnusableModel(f"{path}: it holds a {type(model).__name__}, which cannot predict")
    data_type = create_model(
        "Rows", __config__=ConfigDict(extra="forbid"), rows=(_rows_type(model), Field(min_length=1, max_length=10_000))
    )

    def predict(self: Engine, data: Any) -> Predicted:
        try:
            predictions = model.predict(data.rows)
        except (ValueError, TypeError) as error:
            raise InvalidInput(str(error).splitlines()[0]) from None
        if not hasattr(model, "predict_proba"):
            return Predicted(predictions=predictions.tolist())
        probabilities = model.predict_proba(data.rows)
        if isinstance(probabilities, list):  # A table for each of several outputs, with classes of its own.
            return Predicted(predictions=predictions.tolist())
        return Predicted(
            predictions=predictions.tolist(), probabilities=probabilities.tolist(), classes=model.classes_.tolist()
        )

    predict.__annotations__["data"] = data_type
    return type("SkopsModel", (Engine,), {"__doc__": _about(path, model), "predict": predict})


def _rows_type(model: Any) -> Any:
    features = getattr(model, "n_features_in_", None)
    if features is None:
        return list[Any]
    names = ", ".join(str(name) for name in getattr(model, "feature_names_in_", ()))
    row = Annotated[
        list[float],
        Field(min_length=features, max_length=features, description=f"In order: {names}" if names else None),
    ]
    return list[row]


def _about(path: Path, model: Any) -> str:
    return f"The scikit-learn model {path.name}, a {type(model).__name__}."
