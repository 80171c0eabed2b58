"""The exception tree. Each class fixes its code and whether trying again can help; the gateway maps it to HTTP."""

from typing import ClassVar


class EnginehouseError(Exception):
    """Something went wrong inside Enginehouse."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = True
    advice: ClassVar[str] = "Try again; if it persists, give the operator the X-Request-Id of this answer."

    def __init__(self, detail: str | None = None, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail or f"{self.title}.")
        self.retry_after_seconds = retry_after_seconds

    @property
    def title(self) -> str:
        """Name the kind in words. They are its code's, because Python drops docstrings where PYTHONOPTIMIZE is 2."""
        return self.code.replace("_", " ").capitalize().replace("json", "JSON")


class RequestError(EnginehouseError):
    """The request cannot be carried out as it is."""

    code = "INVALID_REQUEST"
    retryable = False
    advice = "Correct the request as described; /docs shows every field."


class NotJson(RequestError):
    """The text is not JSON, or a value cannot be JSON."""

    code = "NOT_JSON"
    advice = "Send JSON as UTF-8: without lone surrogates, NaN and Infinity, nested at most 128 levels deep."


class UnsupportedMediaType(RequestError):
    """The body is in a form or encoding that is not read."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    advice = "Send the body uncompressed, as UTF-8, with the Content-Type that the call takes."


class InvalidHeader(RequestError):
    """A header cannot be read, or contradicts another one."""

    code = "INVALID_HEADER"
    advice = "Correct the header named; values are UTF-8 text without control characters."


class MethodNotAllowed(RequestError):
    """The path does not take this method."""

    code = "METHOD_NOT_ALLOWED"
    advice = "The header Allow lists the methods that the path takes."


class InvalidName(RequestError):
    """The name is not valid."""

    code = "INVALID_NAME"


class InvalidInput(RequestError):
    """The input does not fit the engine's schema."""

    code = "INVALID_INPUT"
    advice = "GET /v1/engines/{engine} shows the input schema under card.input_schema."


class InputTooLarge(RequestError):
    """The request is larger than allowed."""

    code = "INPUT_TOO_LARGE"
    advice = "Send large inputs by reference: POST /v1/uploads gives a key for input_ref."


class Unauthenticated(RequestError):
    """The API key is missing or not known."""

    code = "UNAUTHENTICATED"
    advice = "Send 'Authorization: Bearer KEY'; an operator makes keys with 'enginehouse tenant add NAME'."


class Forbidden(RequestError):
    """The API key does not allow this."""

    code = "FORBIDDEN"
    advice = "Ask the operator for a key with the rights this call needs."


class NotAllowedToRun(Forbidden):
    """The operator's policy does not allow the image, or code that comes as a folder."""

    code = "NOT_ALLOWED_TO_RUN"
    advice = "Deploy what supply/policy.yaml allows, with the signature and the scan report that it demands."


class TenantSuspended(Forbidden):
    """The operator has suspended the tenant."""

    code = "TENANT_SUSPENDED"
    advice = "Ask the operator. Jobs that were accepted go on, and their results can be read."


class NotFound(RequestError):
    """It does not exist, or you may not know of it."""

    code = "NOT_FOUND"


class EngineDoesNotExist(NotFound):
    """There is no such engine."""

    code = "ENGINE_DOES_NOT_EXIST"
    advice = "GET /v1/engines lists the engines you may use."


class EngineRemoved(EngineDoesNotExist):
    """The engine was removed."""

    code = "ENGINE_REMOVED"
    advice = "Its unfinished jobs ended as canceled. GET /v1/engines lists the engines you may use."


class JobDoesNotExist(NotFound):
    """There is no such job."""

    code = "JOB_DOES_NOT_EXIST"
    advice = "GET /v1/jobs lists your jobs."


class ObjectExists(RequestError):
    """Another object was written under this key."""

    code = "OBJECT_EXISTS"
    advice = "An object is written once; POST /v1/uploads gives a new key for a new upload."


class ResultExpired(RequestError):
    """The job's result has expired."""

    code = "RESULT_EXPIRED"
    advice = "Submit the input again, with a longer result_ttl_seconds if needed."


class JobIsFinal(RequestError):
    """The job has already ended."""

    code = "JOB_IS_FINAL"
    advice = "Final states never change; POST /v1/jobs/{id}/retry makes a new job with the same input."


class NotFinalYet(RequestError):
    """The job has not ended yet."""

    code = "JOB_NOT_FINAL"
    retryable = True
    advice = "Wait for the job to end, or cancel it first."


class AlreadyRedriven(RequestError):
    """The dead letter has already become a new job."""

    code = "ALREADY_REDRIVEN"
    advice = "Follow the job named; POST /v1/jobs/{id}/retry submits its input again when it has ended."


class WrongState(RequestError):
    """It is not in a state in which this can be done."""

    code = "WRONG_STATE"
    advice = "The detail says what it waits for, or what has to be done first."


class IdempotencyKeyReused(RequestError):
    """The Idempotency-Key was used with a different request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    advice = "Use a new Idempotency-Key for a different request."


class EventReused(IdempotencyKeyReused):
    """An event with this source and id came before and asked for something different."""

    code = "EVENT_REUSED"
    advice = "Give a different event an id of its own; the same event may be sent again unchanged."


class RateLimited(EnginehouseError):
    """Too many requests for this tenant."""

    code = "RATE_LIMITED"
    advice = "Wait as long as Retry-After says."


class QueueFull(EnginehouseError):
    """The engine's queue is full."""

    code = "QUEUE_FULL"
    advice = "Wait as long as Retry-After says."


class StorageFull(EnginehouseError):
    """The tenant keeps as many bytes in the object store as it may."""

    code = "STORAGE_FULL"
    advice = (
        "Wait as long as Retry-After says: objects are deleted when they expire, those of a job with its result "
        "(result_ttl_seconds). The operator can raise limits.stored_bytes in tenant.yaml."
    )


class Unavailable(EnginehouseError):
    """A part that this needs cannot be reached."""

    code = "UNAVAILABLE"


class EngineAsleep(Unavailable):
    """The engine has no worker, because it needs none at present."""

    code = "ENGINE_ASLEEP"
    advice = "Submit a job, which wakes the engine, and call again as Retry-After says."


class EngineUnavailable(Unavailable):
    """The engine cannot be called now."""

    code = "ENGINE_UNAVAILABLE"
    advice = "GET /v1/engines/{engine} says what is wrong with it; jobs wait until it works again."


class EngineCallFailed(EnginehouseError):
    """The engine gave no answer that can be passed on."""

    code = "ENGINE_CALL_FAILED"
    retryable = False
    advice = "Its owner finds the reason in the engine's own output: enginehouse engines logs NAME."


class Conflict(EnginehouseError):
    """Another writer changed the record first. Read it again."""

    code = "CONFLICT"


class Malformed(EnginehouseError):
    """An event or record cannot be read."""

    code = "UNPARSABLE"
    retryable = False


class UnsafeSettings(EnginehouseError):
    """The settings are unsafe, so the service refuses to start with them."""

    code = "UNSAFE_SETTINGS"
    advice = "Correct the setting that the message names, then start again; docs/settings.md shows every setting."
    retryable = False
