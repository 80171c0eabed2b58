"""Play the demo against a running stack. Engines are played side by side, each as soon as it is up."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from rich.text import Text

from enginehouse.cli.demonstration.examples import REFUSALS, TENANTS, Example, Refusal, engines_of, examples
from enginehouse.cli.demonstration.show import Board, describe_input, remark_lines
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.homes import read_json
from enginehouse.local.environments import EnvironmentFailed
from enginehouse.local.errors import LocalError
from enginehouse.local.example_system import ExampleSystem, example_system
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.private_files import write_private
from enginehouse.registry.tenants import add_key, has_key

_WAIT_SECONDS = 60
_FINISHED_SECONDS = 60
_LOOK_AGAIN_SECONDS = 0.05
_UP_SECONDS = 1_200
"""An engine may take this long to come up. The first time, its packages are downloaded."""

_CLOUD_EVENT = {"content-type": "application/cloudevents+json"}


def tenant_keys(home: Home) -> dict[str, str]:
    """Return a key for each tenant of the demo.

    Keys are made at the first run and kept in the home, for its owner only.
    """
    kept = read_json(home.demo_keys)
    keys = {
        tenant: kept[tenant] if has_key(home.tenants, tenant, kept.get(tenant, "")) else add_key(home.tenants, tenant)
        for tenant in TENANTS
    }
    write_private(home.demo_keys, json.dumps(keys))
    return keys


@dataclass(slots=True)
class Play:
    """One run of the demo."""

    home: Home
    board: Board
    http: httpx2.AsyncClient
    keys: dict[str, str]
    jobs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Jobs that ended, by tenant."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why an engine did not answer as expected, by engine."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why an example was not played although its engine may be well, by what it is."""

    async def run(self) -> None:
        """Play every example. The problem of one engine is kept in `problems` and does not touch the others."""
        chosen = examples()
        async with asyncio.TaskGroup() as group:
            for engine in engines_of(chosen):
                own = [example for example in chosen if example.engine == engine]
                group.create_task(self._engine(engine, own))

    async def refused(self, refusal: Refusal) -> tuple[int, dict[str, Any]] | None:
        """Make a call that must be refused. Return the status and the problem of the answer.

        Return None if it needs another tenant's job and there is none.
        """
        others = [job["id"] for tenant, jobs in self.jobs.items() if tenant != refusal.tenant for job in jobs]
        if "{job}" in refusal.path and not others:
            return None
        path = refusal.path.format(job=next(iter(others), ""))
        answer = await self._call(refusal.tenant, "POST" if refusal.body else "GET", path, refusal.body)
        return answer.status_code, answer.json()

    async def _engine(self, engine: str, chosen: list[Example]) -> None:
        done = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._calls(engine, chosen, done))
                for example in chosen:
                    if example.how.startswith("event"):
                        group.create_task(self._event(example, done))
        except* EnginehouseError as failed:
            self.problems[engine] = str(_first_error(failed))

    async def _calls(self, engine: str, chosen: list[Example], done: asyncio.Event) -> None:
        await self._wait_until_up(engine)
        for example in chosen:
            # One job after the other, because the table shows each job's own time.
            if example.how == "inline":
                self._record_end(example, await self._submit(example, {"input": example.input}))
            elif example.how == "reference":
                self._record_end(example, await self._submit(example, {"input_ref": await self._upload(example)}))
        done.set()

    async def _event(self, example: Example, done: asyncio.Event) -> None:
        if example.how == "event over HTTP":
            await done.wait()
            accepted = _success_body(
                await self._call(example.tenant, "POST", "/v1/events", _event(example), headers=_CLOUD_EVENT)
            )
            self._record_end(example, await self._job(example.tenant, accepted["id"]))
            return
        # The tenant's system starts while the engine starts.
        try:
            async with example_system(self.home, example.tenant) as system:
                await done.wait()
                self._record_end(example, await self._ask_and_wait(system, example))
        except EnvironmentFailed as failed:
            self.left_out[describe_input(example)] = str(failed)

    async def _ask_and_wait(self, system: ExampleSystem, example: Example) -> dict[str, Any]:
        """Have the tenant's own system ask by event, and wait until it has heard the answer."""
        try:
            async with asyncio.timeout(_FINISHED_SECONDS):
                answer = await system.answer(await system.ask(example.engine, example.input, example.event_type))
        except (TimeoutError, httpx2.HTTPError) as error:
            raise LocalError(
                f"{example.tenant}'s system got no answer to its event within {_FINISHED_SECONDS} s: {error!r}",
                "See the home's logs.",
            ) from None
        if "status" not in answer:
            raise LocalError(f"The event of {example.tenant} was refused: {answer}", "See the home's logs.")
        return await self._job(example.tenant, answer["id"])

    def _record_end(self, example: Example, job: dict[str, Any]) -> None:
        self.jobs.setdefault(example.tenant, []).append(job)
        self.board.add(example, job)
        if job["status"] != "succeeded":
            self.problems.setdefault(example.engine, f"Job {job['id']} of {example.tenant} {job['status']}.")

    async def _wait_until_up(self, engine: str) -> None:
        """Wait until the engine's processes are healthy and the gateway knows its card."""
        tenant = engine.partition("--")[0]
        caller = tenant if tenant in self.keys else LOCAL_TENANT
        entry: dict[str, Any] = {}
        give_up = time.monotonic() + _UP_SECONDS
        while time.monotonic() < give_up:
            entry = self.home.read_state().get("engines", {}).get(engine, {})
            if entry.get("state") == "failed":
                raise LocalError(f"It did not start: {entry['problem']}", f"Its logs are in {self.home.logs}.")
            if entry.get("state") == "running":
                answer = await self._call(caller, "GET", f"/v1/engines/{engine}")
                if answer.is_success and answer.json().get("card"):
                    return
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        state = entry.get("state", "not there")
        raise LocalError(f"It is still {state} after {_UP_SECONDS} s.", f"Its logs are in {self.home.logs}.")

    async def _submit(self, example: Example, body: dict[str, Any]) -> dict[str, Any]:
        path, headers = f"/v1/engines/{example.engine}/jobs", {"prefer": f"wait={_WAIT_SECONDS}"}
        return _success_body(await self._call(example.tenant, "POST", path, body, headers=headers))

    async def _upload(self, example: Example) -> str:
        """Upload the input and return its key. The signed URL of the upload is itself the permission."""
        place = _success_body(
            await self._call(example.tenant, "POST", "/v1/uploads", {"content_type": "application/json"})
        )
        (await self.http.put(place["url"], content=json.dumps(example.input))).raise_for_status()
        key: str = place["key"]
        return key

    async def _job(self, tenant: str, job_id: str) -> dict[str, Any]:
        return _success_body(await self._call(tenant, "GET", f"/v1/jobs/{job_id}?wait={_WAIT_SECONDS}"))

    async def _call(self, tenant: str | None, method: str, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.keys[tenant]}"} if tenant else {}
        headers |= more.pop("headers", {})
        try:
            return await self.http.request(method, path, json=body, headers=headers, **more)
        except httpx2.HTTPError as error:
            raise LocalError(f"The API did not answer: {error!r}", f"The logs are in {self.home.logs}.") from None


async def play(home: Home, url: str, show: Callable[[Text], None], width: int) -> dict[str, Any]:
    """Play the examples, then the refused calls, then show which engines are missing and why. Return all of it.

    Raise EnginehouseError if the API does not answer.
    """
    async with httpx2.AsyncClient(base_url=url, timeout=_WAIT_SECONDS + 10, trust_env=False) as http:
        keys = {LOCAL_TENANT: home.read_local()["api_key"], **tenant_keys(home)}
        run = Play(home, Board(show, width), http, keys)
        await run.run()
        refusals = []
        for refusal in REFUSALS:
            if refused := await run.refused(refusal):
                status, problem = refused
                refusals.append({"what": refusal.what, "status": status, "problem": problem})
                answer = f"{status} {problem['code']}: {problem['detail']}"
                _show_all(show, remark_lines(f"Refused: {refusal.what}", answer, width))
        for engine, reason in run.problems.items():
            _show_all(show, remark_lines(f"Missing: {engine}", reason, width, "red"))
        for example, reason in run.left_out.items():
            _show_all(show, remark_lines(f"Left out: {example}", reason, width, "yellow"))
    return {"jobs": run.jobs, "refusals": refusals, "missing": run.problems, "left_out": run.left_out}


def raise_if_missing(missing: dict[str, str]) -> None:
    """Raise LocalError if there are engines that did not answer as they should."""
    if missing:
        raise LocalError(
            f"{len(missing)} of {len(engines_of(examples()))} engines did not answer as they should: "
            f"{', '.join(missing)}.",
            "The reasons are shown above. The other engines are not affected.",
        )


def _show_all(show: Callable[[Text], None], lines: Iterable[Text]) -> None:
    for line in lines:
        show(line)


def _event(example: Example) -> dict[str, Any]:
    """Return a new CloudEvent of the tenant's own type. Its data is the engine's input."""
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": f"/{example.tenant}/demo",
        "type": example.event_type,
        "engineid": example.engine,
        "datacontenttype": "application/json",
        "data": example.input,
    }


def _success_body(answer: httpx2.Response) -> dict[str, Any]:
    """Return the body of a successful answer. Raise LocalError for any other answer."""
    if answer.is_success:
        body: dict[str, Any] = answer.json()
        return body
    raise LocalError(
        f"{answer.request.method} {answer.request.url.path} was answered {answer.status_code}: {answer.text[:300]}",
        "The logs folder of the home says more.",
    )


def _first_error(group: BaseExceptionGroup[EnginehouseError]) -> EnginehouseError:
    """Return one of the errors that happened side by side."""
    error = group.exceptions[0]
    return _first_error(error) if isinstance(error, BaseExceptionGroup) else error
