"""Rows are read by position, so their fields are in the order of their tables' columns, and they come back unchanged."""

from typing import Any

import pytest
from tests.support.ledger import accepted, new_job, row_of

from enginehouse.contracts.job import RetryPolicy
from enginehouse.gateway.ledger import schema
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import (
    DeadLetterRow,
    EngineRow,
    FinishedEvent,
    JobEventRow,
    JobRow,
    NoticeRow,
    StoredOptions,
)

PAIRS = {
    "jobs": (JobRow, schema.jobs),
    "engines": (EngineRow, schema.engines),
    "dead_letters": (DeadLetterRow, schema.dead_letters),
    "job_events": (JobEventRow, schema.job_events),
    "notices": (NoticeRow, schema.notices),
}


@pytest.mark.parametrize(("row", "table"), PAIRS.values(), ids=PAIRS.keys())
def test_the_fields_of_a_row_are_the_columns_of_its_table_in_their_order(row: Any, table: Any) -> None:
    assert list(row._fields) == [column.name for column in table.c]


OPTIONS = {
    "least": StoredOptions(retry=RetryPolicy(), execution_timeout_seconds=1),
    "most": StoredOptions(
        retry=RetryPolicy(max_attempts=7),
        retry_on_timeout=True,
        execution_timeout_seconds=0.5,
        parameters={"none": None, "deep": [{"a": None}]},
        webhook="https://a.example/",
        webhook_events_filter=("start", "completed"),
        finished_event=FinishedEvent(correlation_id="c"),
    ),
    "an event without a correlation id": StoredOptions(
        retry=RetryPolicy(), execution_timeout_seconds=1, finished_event=FinishedEvent()
    ),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
async def test_options_come_back_as_they_were_stored(ledger: Ledger, options: StoredOptions) -> None:
    job = new_job(options=options)
    await accepted(ledger, job)
    assert (await row_of(ledger, job.row.id)).options == options


def test_options_that_an_earlier_version_stored_can_be_read() -> None:
    stored = (
        '{"retry":{"max_attempts":3,"initial_delay_ms":10,"max_delay_ms":100},"retry_on_timeout":false,'
        '"execution_timeout_seconds":60,"webhook":"https://a.example/","webhook_events_filter":["completed"],'
        '"finished_event":{"correlation_id":null}}'
    )
    options = StoredOptions.model_validate_json(stored)
    assert options.webhook_events_filter == ("completed",)
    assert options.finished_event == FinishedEvent(correlation_id=None)


async def test_a_reason_that_a_newer_gateway_stored_does_not_hide_the_job(ledger: Ledger) -> None:
    job = new_job()
    await accepted(ledger, job)
    change = schema.jobs.update().where(schema.jobs.c.id == job.row.id).values(status_reason="a_later_reason")
    await ledger.database.transact(lambda connection: connection.execute(change), durable=False)
    assert (await row_of(ledger, job.row.id)).status_reason is None
