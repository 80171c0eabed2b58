"""Convert JSON to an engine's types and back, with checks both ways.

One pass in pydantic, because every job needs it. Only a result that it cannot write is looked through in Python.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from enginehouse.contracts.errors import InvalidInput
from enginehouse.contracts.job import JobErrorCode
from enginehouse.contracts.text import storable
from enginehouse.engine.plain import BadResult, is_finite, is_too_deep, plain
from enginehouse.engine.signature import Method

_MAX_ERRORS = 5
_MAX_MESSAGE = 2_000
_SUSPECTS = (b"null", b"NaN", b"Infinity")


class Answer(NamedTuple):
    """An HTTP answer with a JSON body."""

    status: int
    body: bytes


class Request(NamedTuple):
    """A checked request to predict."""

    data: Any
    id: str | None
    options: dict[str, Any]
    """Keyword arguments for the method: `parameters`, if the request has any."""


class Codec:
    """Reads requests for a method and writes its results."""

    def __init__(self, method: Method) -> None:
        self._takes_parameters = method.parameters is not None
        parameters: Any = method.parameters if self._takes_parameters else dict[str, Any]
        envelope: Any = create_model(
            "PredictRequest",
            __config__=ConfigDict(extra="ignore", arbitrary_types_allowed=True),
            data=(method.input_type, ...),
            id=(str | None, None),
            parameters=(parameters | None, None),
        )
        self._request = envelope.__pydantic_validator__
        result: TypeAdapter[Any] = TypeAdapter(method.result_type)
        self._result, self._serializer = result.validator, result.serializer

    def read(self, body: bytes) -> Request:
        """Check the body of a request to predict. Raise InvalidInput with the place and the reason if it is wrong."""
        try:
            request = self._request.validate_json(body)
        except ValidationError as error:
            raise InvalidInput(explain(error)) from None
        return Request(request.data, request.id, _options(request.parameters, self._takes_parameters))

    def write(self, result: Any) -> bytes:
        """Return `{"result": …}`. Raise BadResult if the result has another type than declared or cannot be JSON."""
        value = self._validated(result)
        try:
            body = self._serializer.to_json(value, warnings=False)
        except pydantic_core.PydanticSerializationError:
            body = self._rewritten(value)
        else:
            self._look_closer(value, body)
        return b'{"result":%b}' % body

    def _validated(self, result: Any) -> Any:
        try:
            return self._result.validate_python(result)
        except ValidationError as error:
            first = error
        try:
            # It may be of the declared type once foreign values are plain: an array for a list, for example.
            return self._result.validate_python(plain(result))
        except ValidationError:
            raise BadResult(f"the result is not of the declared type: {explain(first)}") from None

    def _rewritten(self, value: Any) -> bytes:
        """Write a result with values that pydantic does not know."""
        written = plain(self._shown(value))
        try:
            return pydantic_core.to_json(written)
        except (pydantic_core.PydanticSerializationError, ValueError) as error:
            raise BadResult(f"the result cannot be written as JSON: {error}") from None

    def _look_closer(self, value: Any, body: bytes) -> None:
        """Raise BadResult if a result that was written is not valid all the same.

        Numbers that JSON does not know were written as suspicious words, and readers do not follow any depth.
        """
        if is_too_deep(body) or (any(word in body for word in _SUSPECTS) and not is_finite(self._shown(value))):
            plain(self._shown(value))

    def _shown(self, value: Any) -> Any:
        """Return the result as its models show it; the result itself if it is too deep or contains itself."""
        try:
            return self._serializer.to_python(value, warnings=False)
        except (pydantic_core.PydanticSerializationError, ValueError):
            return value


class BatchCodec:
    """Reads requests for predict_batch. A wrong item does not spoil the others."""

    def __init__(self, item: Any, method: Method) -> None:
        self._takes_parameters = method.parameters is not None
        parameters: Any = method.parameters if self._takes_parameters else dict[str, Any]

        def envelope(data: Any) -> Any:
            model: Any = create_model(
                "BatchRequest",
                __config__=ConfigDict(arbitrary_types_allowed=True),
                data=(data, ...),
                ids=(list[str] | None, None),
                parameters=(parameters | None, None),
            )
            return model.__pydantic_validator__

        self._all, self._loose = envelope(list[item]), envelope(list[Any])
        self._item: TypeAdapter[Any] = TypeAdapter(item)

    def read(self, body: bytes) -> tuple[list[Any], list[str], dict[str, Any]]:
        """Return the items, with an InvalidInput in the place of a wrong one, the ids, and the method's keyword arguments."""
        try:
            request = self._all.validate_json(body)
            items = list(request.data)
        except ValidationError:
            try:
                request = self._loose.validate_json(body)
            except ValidationError as error:
                raise InvalidInput(explain(error)) from None
            items = [self._read_item(item) for item in request.data]
        return items, request.ids or [], _options(request.parameters, self._takes_parameters)

    def _read_item(self, item: Any) -> Any:
        try:
            return self._item.validate_json(pydantic_core.to_json(item))
        except ValidationError as error:
            return InvalidInput(explain(error))


def _options(parameters: Any, takes_parameters: bool) -> dict[str, Any]:
    """Return the keyword arguments for a method."""
    if parameters is None:
        return {}
    if takes_parameters:
        return {"parameters": parameters}
    if parameters:
        raise InvalidInput("parameters: this engine takes none")
    return {}


def explain(error: ValidationError) -> str:
    """Return the reasons in one line: place and reason, at most five."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(str(part) for part in one['loc']) or 'body'}: {one['msg']}" for one in found[:_MAX_ERRORS]]
    if len(found) > _MAX_ERRORS:
        lines.append(f"and {len(found) - _MAX_ERRORS} more")
    return "; ".join(lines)


def failure(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Return status and `{"message", "retryable"}` for an exception, and `code` if the result was of no use.

    The traceback stays in the engine's own log.
    """
    ours = isinstance(error, InvalidInput | BadResult)
    message = str(error) if ours else f"{type(error).__name__}: {error}"
    said: dict[str, Any] = {"message": storable(message[:_MAX_MESSAGE]), "retryable": not ours}
    if isinstance(error, BadResult):  # The same input would give the same result.
        said["code"] = JobErrorCode.MALFORMED_ANSWER
    return 422 if isinstance(error, InvalidInput) else 500, said


def error_answer(status: int, error: dict[str, Any]) -> Answer:
    """Return an answer with the body `{"error": …}`."""
    return Answer(status, pydantic_core.to_json({"error": error}))


def join_results(parts: Iterable[bytes]) -> bytes:
    """Return `{"results": […]}` from results that are already JSON."""
    return b'{"results":[%b]}' % b",".join(parts)
