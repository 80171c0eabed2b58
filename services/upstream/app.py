"""A tenant's own system: asks engines by events on requests.<tenant>, and hears the answers on finished.<tenant>."""

import hmac
import os
from collections import OrderedDict
from functools import cache
from typing import Annotated, Any
from uuid import uuid4

from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from dapr.clients import DaprClient
from dapr.ext.fastapi import DaprApp
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel

TENANT = os.environ.get("TENANT", "acme")
SOURCE = os.environ.get("SOURCE", f"/{TENANT}/upstream")
"""Names this system in its events. Answers repeat it, so that several systems of a tenant can tell theirs."""
PUBSUB = f"tenant-{TENANT}"
KEPT = 1_000
"""So many answers are kept, the newest."""

app = FastAPI(title=f"A system of {TENANT}")
answers: OrderedDict[str, dict[str, Any]] = OrderedDict()
"""The answers to this system's questions, by the id of the question."""


class Question(BaseModel):
    """What this system asks of an engine."""

    engine: str
    input: Any
    type: str = "com.example.question"


@cache
def sidecar() -> DaprClient:
    """Connect to the sidecar at the first use: this waits for the sidecar, which waits until this app listens."""
    return DaprClient()


def from_sidecar(dapr_api_token: Annotated[str, Header()] = "") -> None:
    """Refuse deliveries that are not from this app's own sidecar, if the two have a token."""
    if not hmac.compare_digest(dapr_api_token.encode(), os.environ.get("APP_API_TOKEN", "").encode()):
        raise HTTPException(403, "Deliveries come from this app's own sidecar only")


@app.post("/questions", status_code=202)
def ask(question: Question) -> dict[str, str]:
    """Publish a question. Its id leads to the answer; the same id again would be the same job."""
    event = CloudEvent(
        {
            "id": str(uuid4()),
            "source": SOURCE,
            "type": question.type,
            "datacontenttype": "application/json",
            # As an attribute of a whole event: Dapr drops cloudevent.engineid from the metadata of a publish.
            "engineid": question.engine,
        },
        question.input,
    )
    message = to_structured_event(event)
    sidecar().publish_event(
        PUBSUB, f"requests.{TENANT}", message.body, data_content_type=message.headers["content-type"]
    )
    return {"id": event.get_id()}


@app.get("/answers")
def all_answers() -> dict[str, dict[str, Any]]:
    """Show the answers, by the id of the question."""
    return answers


@app.get("/answers/{question}")
def answer(question: str) -> dict[str, Any]:
    """Show the answer to a question: an ended job, or a refusal with its code and detail."""
    if question not in answers:
        raise HTTPException(404, "There is no answer to this question yet")
    return answers[question]


async def hear(request: Request, _: Annotated[None, Depends(from_sidecar)]) -> dict[str, str]:
    """Keep the answer to a question of this system. An answer may come twice; answers to other systems are left out."""
    event = from_http_event(HTTPMessage(dict(request.headers), await request.body()))
    said = event.get_data()
    # Some events are about engines, and of jobs that came over HTTP no event asked.
    asked = said.get("event") if isinstance(said, dict) else None
    if asked and asked["source"] == SOURCE:
        answers[asked["id"]] = said
        if len(answers) > KEPT:
            answers.popitem(last=False)
    return {"status": "SUCCESS"}


# `subscribe` returns None, so it is not used as a decorator: `hear` would be lost.
DaprApp(app).subscribe(PUBSUB, f"finished.{TENANT}", route="/finished")(hear)
