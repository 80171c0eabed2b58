"""Answers errors under /v2 as the Open Inference Protocol says: `{"error": "…"}`, and 400 for what is wrong with a request."""

from fastapi import Response

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobErrorCode
from enginehouse.gateway.inference.infer import NOT_ENDED, InferFailed
from enginehouse.web.responses import json_answer

JOB_HEADER = "Enginehouse-Job-Id"
JOB_STATUSES = {
    JobErrorCode.INVALID_INPUT: 400,
    JobErrorCode.INPUT_UNAVAILABLE: 410,
    JobErrorCode.PREDICT_ERROR: 502,
    JobErrorCode.MALFORMED_ANSWER: 502,
    JobErrorCode.OUTPUT_TOO_LARGE: 502,
    JobErrorCode.PREDICT_TIMEOUT: 504,
    JobErrorCode.UNPARSABLE: 502,
    JobErrorCode.WORKER_LOST: 502,
    JobErrorCode.EXPIRED: 504,
    JobErrorCode.CANCELED: 409,
    JobErrorCode.ENGINE_REMOVED: 404,
    JobErrorCode.TRIAL_ENDED: 404,
    NOT_ENDED: 504,
}
"""The status for a job without a result, by its error's code."""


def open_inference_error(error: EnginehouseError, status: int, headers: dict[str, str]) -> Response:
    """Answer with an error. `status` is that of /v1."""
    said = str(error)
    if isinstance(error, InferFailed):
        status = JOB_STATUSES.get(error.reason, 502)
        headers[JOB_HEADER] = error.job_id
        said = f"{error.reason}: {said}"
    elif error.code == JobErrorCode.MALFORMED_ANSWER:
        status = 502
    elif status == 422:
        status = 400
    return json_answer({"error": said}, status, headers)
