"""While the disk of the ledger is full, submits are refused with a reason. No accepted job is lost, and work goes on after."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.disk import SmallDisk, small_disk
from tests.support.postgres import postgres_server
from tests.support.stack import Answer, StackHandle, running_stack, until

_ECHO = Path(__file__).resolve().parents[1] / "engines/echo"
_FULL_SECONDS = 3.0


def _submit(stack: StackHandle) -> Answer:
    answer = stack.call("POST", "/v1/engines/tests--echo/jobs", {"input": "x" * 50_000}, tenant="tests")
    assert answer.status in (202, 503), answer
    return answer


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, SmallDisk, Callable[[], None]]]:
    """The URL of a ledger, the disk below it, and what its operator does once there is room again."""
    with ExitStack() as stops:
        if request.param == "sqlite":
            disk = stops.enter_context(small_disk(tmp_path / "disk", 64))
            found = (f"sqlite+aiosqlite:///{disk.folder / 'ledger.sqlite'}", disk, lambda: None)
        else:
            server = stops.enter_context(postgres_server())
            found = (server.url, server.disk, server.restart)
        if not found[1].is_mounted:
            pytest.skip("a small disk could not be mounted: that needs root")
        yield found


@pytest.mark.timeout(180)
def test_while_the_ledgers_disk_is_full_no_job_is_accepted_and_none_is_lost(
    ledger: tuple[str, SmallDisk, Callable[[], None]], tmp_path: Path
) -> None:
    url, disk, restart = ledger
    with running_stack(tmp_path / "home", [_ECHO], env={"ENGINEHOUSE_GATEWAY_LEDGER_URL": url}) as stack:
        answers = [_submit(stack) for _ in range(20)]

        def status() -> int:
            answers.append(_submit(stack))
            return answers[-1].status

        disk.fill()
        until(lambda: status() == 503, "it is refused", 60)
        refusal = answers[-1]
        assert (refusal.body["code"], refusal.body["retryable"]) == ("UNAVAILABLE", True)
        assert refusal.headers["retry-after"]
        ends = time.monotonic() + _FULL_SECONDS
        until(lambda: status() and time.monotonic() >= ends, "it was full for a while")
        disk.free()
        restart()
        until(lambda: status() == 202, "jobs are accepted again", 30)
        for answer in answers:
            if answer.status == 202:
                job = stack.call("GET", f"/v1/jobs/{answer.body['id']}?wait=30", tenant="tests").body
                assert job["status"] == "succeeded", job
        assert stack.processes()["gateway"]["restarts"] == 0
