"""The commands and the Python client work as their users type them, over a whole running stack."""

import asyncio
import doctest
import json
from typing import Any

import pytest
from tests.support.commands import Ran, run_command
from tests.support.documents import ROOT
from tests.support.stack import StackHandle, until

from enginehouse import client as client_package
from enginehouse.client import AsyncClient, Client, sync_client
from enginehouse.contracts import errors

GOOD = '{"text": "I love it"}'


@pytest.fixture(scope="module")
def stack(shared_stack: StackHandle) -> StackHandle:
    shared_stack.deploy(ROOT / "services" / "engines" / "standard")
    return shared_stack


def command(stack: StackHandle, *arguments: str, stdin: str = "") -> Ran:
    return run_command(stack.home.path, *arguments, stdin=stdin)


def answer(stack: StackHandle, *arguments: str) -> Any:
    result = command(stack, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_submit_and_wait_prints_only_the_output_as_its_result(stack: StackHandle) -> None:
    result = command(stack, "submit", "standard", "--input", "-", "--wait", stdin=GOOD)
    assert json.loads(result.stdout)["label"] == "positive"
    assert result.returncode == 0
    assert result.stderr.startswith("Accepted by shared--standard: ")


def test_a_job_is_submitted_shown_listed_and_tried_again(stack: StackHandle) -> None:
    submitted = command(stack, "submit", "--input", GOOD)
    job_id = submitted.stdout.strip()
    waited = answer(stack, "submit", "shared--standard", "--input", GOOD, "--wait", "--priority", "9")
    assert waited["status"] == "succeeded"
    shown = answer(stack, "jobs", "show", job_id)
    assert (shown["engine"], shown["output"]["label"]) == ("shared--standard", "positive")
    listed = answer(stack, "jobs", "--engine", "standard", "--status", "succeeded", "--limit", "5")
    assert [waited["id"], job_id] == [job["id"] for job in listed][:2]
    again = command(stack, "jobs", "retry", job_id).stdout.strip()
    assert answer(stack, "jobs", "show", again)["retry_of"] == job_id
    table = command(stack, "jobs").stdout
    assert all(one in table for one in (job_id, again, "shared--standard", "succeeded"))


def test_engines_are_listed_and_shown(stack: StackHandle) -> None:
    assert [engine["id"] for engine in answer(stack, "engines")] == ["shared--standard"]
    assert "text" in json.dumps(answer(stack, "engines", "show", "standard")["card"]["input_schema"])
    shown = command(stack, "engines", "show", "shared--standard")
    assert "Sentiment" in shown.stdout
    assert "maxLength" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "no-such", "--input", "1"], "enginehouse engines"),
        (["submit", "--input", '{"text": 4}'], "input.text"),
        (["jobs", "show", "nonsense"], "not a job id"),
        (["jobs", "show", "01890a5d-ac96-7b2a-8c4e-0123456789ab"], "enginehouse jobs"),
        (["jobs", "cancel", "01890a5d-ac96-7b2a-8c4e-0123456789ab"], "enginehouse jobs"),
        (["engines", "show", "../jobs"], "engine"),
    ],
)
def test_a_refusal_is_one_line_with_advice(stack: StackHandle, arguments: list[str], said: str) -> None:
    result = command(stack, *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def test_a_new_key_works_and_a_revoked_one_does_not(stack: StackHandle) -> None:
    key = command(stack, "tenant", "add", "globex").stdout.strip()
    with Client(stack.base_url, key) as client:
        until_allowed(client)
        assert client.run("standard", {"text": "I hate it"}, timeout_seconds=30)["label"] == "negative"
        mine = [job.id for job in client.jobs()]
        assert len(mine) == 1
        assert mine[0] not in command(stack, "jobs", "--limit", "1000").stdout
        assert command(stack, "tenant", "revoke", "globex", key).returncode == 0
        until_refused(client)


def until_allowed(client: Client) -> None:
    _until(client, allowed=True)


def until_refused(client: Client) -> None:
    _until(client, allowed=False)


def _until(client: Client, *, allowed: bool) -> None:
    def so() -> bool:
        try:
            client.engines()
        except errors.Unauthenticated:
            return not allowed
        return allowed

    until(so, f"the key is {'known' if allowed else 'forgotten'}")


@pytest.mark.parametrize("module", [client_package, sync_client])
def test_the_clients_examples_run(stack: StackHandle, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", stack.base_url)
    monkeypatch.setenv("ENGINEHOUSE_API_KEY", stack.keys["demo"])
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


async def test_many_jobs_at_once_through_the_async_client(stack: StackHandle) -> None:
    async with AsyncClient(stack.base_url, stack.keys["demo"]) as client:
        texts = ["I love it", "I hate it"] * 50
        labels = await asyncio.gather(*(client.run("standard", {"text": text}, timeout_seconds=60) for text in texts))
    assert [label["label"] for label in labels] == ["positive", "negative"] * 50


async def test_the_same_idempotency_key_is_the_same_job(stack: StackHandle) -> None:
    async with AsyncClient(stack.base_url, stack.keys["demo"]) as client:
        handles = [await client.submit("standard", {"text": "one"}, idempotency_key="once") for _ in range(3)]
        assert len({handle.id for handle in handles}) == 1
        with pytest.raises(errors.IdempotencyKeyReused):
            await client.submit("standard", {"text": "two"}, idempotency_key="once")


async def test_a_handle_of_an_ended_job_cannot_cancel_it(stack: StackHandle) -> None:
    async with AsyncClient(stack.base_url, stack.keys["demo"]) as client:
        handle = await client.submit("standard", {"text": "one"})
        assert (await handle.wait(30)).status == "succeeded"
        assert (await (await client.handle(handle.id)).result())["label"] == "neutral"
        with pytest.raises(errors.JobIsFinal):
            await handle.cancel()
