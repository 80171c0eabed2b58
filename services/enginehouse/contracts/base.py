"""Base classes of data that crosses a boundary, by who writes it; and how its errors are explained."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, SecretStr, ValidationError

_NAME_MAX_CHARS = 100
"""Most characters of a field's name that an explanation repeats: names come from strangers."""


class StrictModel(BaseModel):
    """Data written by people. Refuses an unknown field, which is most likely a misspelt one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of fields, each with its present name. Readers of files tell their authors."""


class WireModel(BaseModel):
    """Data written by one part and read by another, perhaps of another version. Ignores unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


TOKEN_MIN_LENGTH = 16
"""Fewest characters of a token between an app and its sidecar."""


def at_least(characters: int) -> AfterValidator:
    """Return what refuses a secret setting of fewer characters. It never quotes the secret."""

    def check(value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < characters:
            raise ValueError(f"it must have at least {characters} characters")
        return value

    return AfterValidator(check)


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Say in a line which fields do not fit, and why; the first five. `model` tells the fields that there are."""
    return explain_problems(error.errors(include_url=False, include_input=False), model)


def explain_problems(problems: Sequence[Mapping[str, Any]], model: type[BaseModel] | None = None) -> str:
    """Say in a line what pydantic's list of problems says; the first five."""
    return "; ".join(
        f"{'.'.join(str(part)[:_NAME_MAX_CHARS] for part in item['loc']) or 'body'}: {_reason(item, model)}"
        for item in problems[:5]
    )


def variable(settings: type[BaseModel], name: str) -> str:
    """Return the environment variable of a setting. `name` is its field, or the alias by which an error names it."""
    field = settings.model_fields.get(name)
    if field is None:
        return name
    alias = field.validation_alias
    if alias is None:
        return f"{settings.model_config.get('env_prefix', '')}{name}".upper()
    return str(alias.choices[0] if isinstance(alias, AliasChoices) else alias)


def explain_settings(error: ValidationError, settings: type[BaseModel]) -> str:
    """Say in a line which environment variables are missing or wrong, and why. Show no value: some are secret."""
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(
        f"{variable(settings, str(item['loc'][0]))}: "
        + ("it must be set" if item["type"] == "missing" else _reason(item, settings))
        for item in problems
    )


def _reason(item: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] != "extra_forbidden" or model is None:
        return str(item["msg"])
    *path, name = item["loc"]
    known = known_names(model_at(model, path))
    nearest = difflib.get_close_matches(str(name)[:_NAME_MAX_CHARS], known, 1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(known) or 'none'}"
    return f"there is no such field; {hint}"


def known_names(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's fields, as they are written outside Python."""
    return [field.alias or name for name, field in model.model_fields.items()]


def as_written(model: type[BaseModel], path: Sequence[Any]) -> tuple[Any, ...]:
    """Return `path` with the names that fields have outside Python. A mistake in a default names a field otherwise."""
    fields = (model_at(model, path[:at]).model_fields.get(part) for at, part in enumerate(path))
    return tuple(part if field is None else field.alias or part for part, field in zip(path, fields, strict=True))


def model_at(model: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    """Return the model at `path` within `model`, where pydantic found a mistake."""
    for part in path:
        aliases = (field for field in model.model_fields.values() if field.alias == part)
        if field := model.model_fields.get(part) or next(aliases, None):
            model = model_in(field.annotation) or model
    return model


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation allows, perhaps in a list or beside None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)
