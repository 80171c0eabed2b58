"""Of the writes of a group: a database that stops answering is waited for once, and locks are taken last."""

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from enginehouse.contracts.errors import Unavailable
from enginehouse.gateway.ledger.database import UNREACHABLE
from enginehouse.gateway.ledger.group_writer import GroupWriter


class Scripted:
    """Answers transactions as the test says: None commits, an exception is raised."""

    dialect = "scripted"
    unreachable = UNREACHABLE

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)

    async def transact(self, work: Callable[[Connection], Any], *, durable: bool) -> Any:
        await asyncio.sleep(0)
        if error := self.answers.pop(0):
            raise error
        return work(None)  # type: ignore[arg-type]


def echo(connection: Connection, items: list[Any]) -> list[Any]:
    return items


async def test_the_writes_after_a_timeout_are_not_tried() -> None:
    conflict = IntegrityError("insert", {}, Exception("the key is taken"))
    database = Scripted(conflict, None, TimeoutError())
    writer = GroupWriter(database)  # type: ignore[arg-type]
    first, *others = await asyncio.gather(*(writer.write(echo, number) for number in range(4)), return_exceptions=True)
    assert first == 0
    assert [type(other) for other in others] == [Unavailable] * 3
    assert database.answers == []
    await writer.close()


async def test_what_other_gateways_wait_for_comes_last_in_a_group() -> None:
    written: list[str] = []

    def lock(connection: Connection, items: list[Any]) -> list[Any]:
        written.append("lock")
        return items

    def change(connection: Connection, items: list[Any]) -> list[Any]:
        written.append("change")
        return items

    writer = GroupWriter(Scripted(None), last=lock)  # type: ignore[arg-type]
    assert await asyncio.gather(*(writer.write(write, 1) for write in (lock, change))) == [1, 1]
    assert written == ["change", "lock"]
    await writer.close()
