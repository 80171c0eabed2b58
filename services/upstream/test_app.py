"""The app over HTTP, with a Dapr client that keeps what is published instead of a sidecar."""

import json
import os

os.environ |= {"APP_API_TOKEN": "token"}

import app
import pytest
from fastapi.testclient import TestClient


class Sidecar:
    def __init__(self):
        self.published = []

    def publish_event(self, pubsub, topic, data, data_content_type):
        self.published.append((pubsub, topic, json.loads(data), data_content_type))


@pytest.fixture
def sidecar(monkeypatch):
    sidecar = Sidecar()
    monkeypatch.setattr(app, "sidecar", lambda: sidecar)
    app.answers.clear()
    return sidecar


@pytest.fixture
def http(sidecar):
    return TestClient(app.app, headers={"dapr-api-token": "token"})


def answer(question, source=app.SOURCE, **data):
    return {
        "specversion": "1.0",
        "id": "0",
        "source": "/gateway",
        "type": "dev.enginehouse.job.completed.v1",
        "data": {"status": "succeeded", "event": {"id": question, "source": source}, **data},
    }


def hear(http, event, **headers):
    return http.post("/finished", json=event, headers={"content-type": "application/cloudevents+json", **headers})


def test_a_question_is_a_whole_event_that_names_its_engine(http, sidecar):
    question = http.post("/questions", json={"engine": "ocr", "input": {"image": "AP8="}}).json()["id"]
    ((pubsub, topic, event, content_type),) = sidecar.published
    assert (pubsub, topic, content_type) == ("tenant-acme", "requests.acme", "application/cloudevents+json")
    assert (event["id"], event["source"], event["engineid"]) == (question, app.SOURCE, "ocr")
    assert event["data"] == {"image": "AP8="}


def test_its_answer_is_kept_under_its_id_and_those_of_other_systems_are_not(http):
    assert http.get("/answers/q1").status_code == 404
    for event in (
        answer("q1", output=5),
        answer("q2", source="/acme/billing"),
        {**answer("q3"), "data": {"state": "paused"}},
    ):
        assert hear(http, event).json() == {"status": "SUCCESS"}
    assert http.get("/answers/q1").json()["output"] == 5
    assert set(http.get("/answers").json()) == {"q1"}


def test_only_so_many_answers_are_kept(http, monkeypatch):
    monkeypatch.setattr(app, "KEPT", 2)
    for question in ("q1", "q2", "q3"):
        hear(http, answer(question))
    assert set(http.get("/answers").json()) == {"q2", "q3"}


def test_only_the_own_sidecar_may_deliver(http):
    assert hear(http, answer("q1"), **{"dapr-api-token": "other"}).status_code == 403
    assert http.get("/answers").json() == {}


def test_the_sidecar_learns_what_to_subscribe(http):
    (subscription,) = http.get("/dapr/subscribe").json()
    assert (subscription["pubsubname"], subscription["topic"]) == ("tenant-acme", "finished.acme")
