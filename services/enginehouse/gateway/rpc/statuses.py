"""The one table from errors to statuses of gRPC."""

from grpc import StatusCode

from enginehouse.contracts import errors
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobErrorCode
from enginehouse.gateway.inference.infer import NOT_ENDED, InferFailed
from enginehouse.gateway.inference.requests import UnusableAnswer

_STATUSES: dict[type[EnginehouseError], StatusCode] = {
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.Forbidden: StatusCode.PERMISSION_DENIED,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.InputTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.ResultExpired: StatusCode.NOT_FOUND,
    errors.IdempotencyKeyReused: StatusCode.ALREADY_EXISTS,
    errors.RateLimited: StatusCode.RESOURCE_EXHAUSTED,
    errors.QueueFull: StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFull: StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    UnusableAnswer: StatusCode.UNKNOWN,
    errors.RequestError: StatusCode.INVALID_ARGUMENT,
    errors.EnginehouseError: StatusCode.UNKNOWN,
}
_OF_JOBS = {
    JobErrorCode.INVALID_INPUT: StatusCode.INVALID_ARGUMENT,
    JobErrorCode.INPUT_UNAVAILABLE: StatusCode.NOT_FOUND,
    JobErrorCode.PREDICT_TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
    JobErrorCode.EXPIRED: StatusCode.DEADLINE_EXCEEDED,
    NOT_ENDED: StatusCode.DEADLINE_EXCEEDED,
    JobErrorCode.CANCELED: StatusCode.CANCELLED,
    JobErrorCode.ENGINE_REMOVED: StatusCode.NOT_FOUND,
    JobErrorCode.TRIAL_ENDED: StatusCode.NOT_FOUND,
}
"""The status for a job without a result, by its error's code. UNKNOWN, as for a failing function of gRPC, for all others."""


def status_of(error: EnginehouseError) -> StatusCode:
    """Return the status of an error: of its job, of its own class, or of its nearest ancestor."""
    if isinstance(error, InferFailed):
        return _OF_JOBS.get(error.reason, StatusCode.UNKNOWN)
    return next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)
