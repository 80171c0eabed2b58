"""The protocols that engines speak, and what engine.yaml must say about each besides its name."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from enginehouse.contracts.base import StrictModel

EXPRESSION_MAX_CHARS = 2_000

ProtocolName = Literal["predict", "open-inference", "openai", "json"]

_Path = Annotated[str, Field(max_length=200, pattern=r"^/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*$")]


class OpenInference(StrictModel):
    """A server of the Open Inference Protocol v2, such as MLServer, Triton or KServe."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] = Field(
        description="Name of the model on that server."
    )
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")] | None = Field(
        None, description="Version of the model. Default: the server chooses."
    )
    transport: Literal["rest", "grpc"] = Field("rest", description="What the server speaks on the port in PORT.")


class OpenAI(StrictModel):
    """A server with the routes of OpenAI's API, such as vLLM, llama.cpp or Ollama."""

    model: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Model of the inputs that name none."
    )


class JsonCall(StrictModel):
    """One route of any server that takes and answers JSON."""

    path: _Path = Field(description="Route that answers one input.")
    method: Literal["POST", "PUT"] = "POST"
    request: str = Field(
        "data", description="JMESPath over the job's `{data, id, parameters}`. It makes the body of the request."
    )
    result: str = Field("@", description="JMESPath over the body of the answer. It makes the result.")
    health: _Path = Field("/healthz", description="Route that answers 200 once the server can work.")

    @field_validator("request", "result")
    @classmethod
    def _expression(cls, text: str) -> str:
        if (fault := expression_fault(text)) is not None:
            raise ValueError(fault)
        return text


def expression_fault(text: str) -> str | None:
    """Say what is wrong with a JMESPath expression, and where; None if nothing is."""
    # Imported here, because engines import this package, and have no JMESPath.
    import jmespath
    from jmespath.exceptions import JMESPathError, LexerError, ParseError
    from jmespath.functions import Functions

    if len(text) > EXPRESSION_MAX_CHARS:
        return f"has {len(text)} characters, where {EXPRESSION_MAX_CHARS} are allowed"
    try:
        tree: Any = jmespath.compile(text).parsed
    except LexerError as error:
        return f"is not JMESPath: {error.message} at character {error.lexer_position + 1}"
    except ParseError as error:
        return f"is not JMESPath: {_misplaced(error)}"
    except (JMESPathError, RecursionError, ValueError) as error:
        return f"is not JMESPath: {' '.join(str(error).split())[:200]}"
    known: dict[str, Any] = Functions.FUNCTION_TABLE
    for name, given in _calls(tree):
        if name not in known:
            return f"calls {name}(), which JMESPath does not have; it has {', '.join(sorted(known))}"
        takes = known[name]["signature"]
        variadic = bool(takes) and bool(takes[-1].get("variadic"))
        if given < len(takes) or (given > len(takes) and not variadic):
            return f"calls {name}() with {given} arguments, where it takes {len(takes)}"
    return None


def _misplaced(error: Any) -> str:
    # The parser names the kind of the token `eof` where the text ends.
    return (
        f"{error.token_value!r} at character {error.lex_position + 1} does not belong there"
        if error.lex_position < len(error.expression)
        else "it ends too early"
    )


def _calls(tree: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the functions that an expression calls, each with the number of its arguments."""
    found: list[tuple[str, int]] = []
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if node["type"] == "function_expression":
            found.append((str(node["value"]), len(node["children"])))
        waiting.extend(child for child in node["children"] if isinstance(child, dict))
    return found


_EXAMPLES = {
    "open_inference": "open_inference: {model: iris}",
    "openai": "openai: {model: my-model}",
    "json": "json: {path: /classify, request: data, result: labels, health: /health}",
}
"""An example of the options of each protocol that has some, by their key in engine.yaml."""


def check_options(key: str, options: StrictModel | None, protocol: str | None) -> None:
    """Raise ValueError if `options`, those under `key`, are missing for this protocol, or belong to another."""
    wanted = key.replace("_", "-")
    if options is None and protocol == wanted:
        raise ValueError(f"is missing: protocol {wanted} needs it, for example {_EXAMPLES[key]}")
    if options is not None and protocol not in (None, wanted):
        raise ValueError(f"belongs to protocol {wanted}, and this engine's protocol is {protocol}: remove one of them")
