"""The baseline's task: answers its input, as the echo engine does."""

import os
from typing import Any

from celery import Celery

app = Celery("baseline", broker=os.environ["BASELINE_REDIS_URL"], backend=os.environ["BASELINE_REDIS_URL"])
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_expires=86_400,
    # In its favour: the default of 4 makes idle processes wait for the broker between tasks as short as these.
    worker_prefetch_multiplier=32,
    # In its favour: one write less per task. A task then ends with its worker process; ours survives that.
    task_acks_late=False,
    task_track_started=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def echo(data: Any) -> Any:
    return data
