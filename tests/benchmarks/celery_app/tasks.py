"""The baseline's task: answers its input, as the echo engine does. BASELINE_DURABLE: no task is lost with its worker."""

import os
from typing import Any

from celery import Celery

DURABLE = "BASELINE_DURABLE" in os.environ

app = Celery("baseline", broker=os.environ["BASELINE_REDIS_URL"], backend=os.environ["BASELINE_REDIS_URL"])
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_expires=86_400,
    # In its favour: the default of 4 makes idle processes wait for the broker between tasks as short as these.
    worker_prefetch_multiplier=32,
    # As Celery comes: one write less per task, and a task ends with its worker process; ours survives that.
    task_acks_late=DURABLE,
    task_reject_on_worker_lost=DURABLE,
    task_track_started=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def echo(data: Any) -> Any:
    return data
