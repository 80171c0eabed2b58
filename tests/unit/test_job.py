"""A job's transitions are those of the design, and the models keep every input and answer unchanged."""

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.job_events import one_job_event
from tests.support.proofs import key_of

from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.errors import Malformed
from enginehouse.contracts.events import (
    JOB_COMPLETED,
    Completion,
    CompletionData,
    JobEvent,
    JobOrder,
    completion_event,
)
from enginehouse.contracts.job import FINAL, TRANSITIONS, JobRecord, RetryPolicy, Status, may_change
from enginehouse.contracts.moments import now

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)

# The table of design.md, written a second time, so that a change in the code must be intended.
ALLOWED = {
    ("queued", "running"),
    ("queued", "queued"),
    ("queued", "succeeded"),
    ("queued", "failed"),
    ("queued", "timed_out"),
    ("queued", "expired"),
    ("queued", "canceled"),
    ("running", "running"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "timed_out"),
    ("running", "canceled"),
}


def test_exactly_the_designed_changes_are_allowed() -> None:
    allowed = {(str(a), str(b)) for a, b in product(Status, Status) if may_change(a, b)}
    assert allowed == ALLOWED


def test_no_change_leaves_a_final_state() -> None:
    assert {t.before for t in TRANSITIONS} == set(Status) - FINAL
    assert {status for status in Status if status.is_final} == FINAL


@given(st.lists(st.sampled_from(Status), max_size=30))
def test_whatever_is_tried_the_first_final_state_stays(tried: list[Status]) -> None:
    status = Status.QUEUED
    ended: Status | None = None
    for wanted in tried:
        if may_change(status, wanted):
            status = wanted
        if ended is None and status.is_final:
            ended = status
        assert ended is None or status is ended


@given(st.lists(st.sampled_from(Status).filter(lambda s: not s.is_final), max_size=10))
def test_every_unfinished_state_can_still_end(tried: list[Status]) -> None:
    status = Status.QUEUED
    for wanted in tried:
        status = wanted if may_change(status, wanted) else status
    assert may_change(status, Status.CANCELED)
    assert may_change(status, Status.SUCCEEDED)


@given(json_values)
def test_an_output_survives_the_record_whole(output: Any) -> None:
    record = JobRecord(status=Status.SUCCEEDED, attempt=1, output=output)
    written = record.model_dump_json(exclude_none=True, exclude_defaults=True)
    read = JobRecord.model_validate_json(written)
    assert read == record
    # `==` treats 1, 1.0 and True as equal.
    assert json.dumps(read.output) == json.dumps(output)


@given(json_values, st.dictionaries(st.text(max_size=8), json_values, max_size=3))
def test_an_input_survives_the_event_whole(value: Any, parameters: dict[str, Any]) -> None:
    order = JobOrder(
        input=value,
        parameters=parameters,
        execution_timeout_seconds=5,
        retry=RetryPolicy(),
        retry_on_timeout=True,
        record_ttl_seconds=60,
    )
    event = read_event(
        JobEvent, one_job_event(key_of("acme--ocr"), "acme--ocr", "acme", "id", order, attempt=2, expires=now())
    )
    assert event.data.model_dump() == {**order.model_dump(), "also": ()}
    assert json.dumps(event.data.input) == json.dumps(value)
    assert json.dumps(event.data.parameters) == json.dumps(parameters)


def test_a_completion_names_the_job_and_its_engine() -> None:
    body = completion_event(
        key_of("acme--ocr"), "acme--ocr", JOB_COMPLETED, "the-job", Status.SUCCEEDED, 1, ["another"]
    )
    event = read_event(Completion, body)
    assert (event.type, event.engineid, event.subject) == (JOB_COMPLETED, "acme--ocr", "the-job")
    assert event.data == CompletionData(status=Status.SUCCEEDED, also=("another",))
    assert json.loads(body)["source"] == "/engines/acme--ocr"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b'{"id": 1}', b"\xff\xfe", b"9" * 5_000])
def test_what_is_no_event_is_malformed_and_says_why(body: bytes) -> None:
    with pytest.raises(Malformed, match=r": "):
        read_event(JobEvent, body)
