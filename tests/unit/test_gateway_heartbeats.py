"""The gateway reads heartbeats, and no more bytes of them than workers that do as they should ever write."""

from pathlib import Path

from tests.support.gateway import ECHO, gateway_world
from tests.support.gateway_engines import ECHO_STORE, engine

from enginehouse.contracts.engine import JOBS_AT_ONCE_MAX
from enginehouse.contracts.names import WORKERS_KEY, new_job_id
from enginehouse.gateway.engines.card_reader import CardReader


async def test_what_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    """An engine that took over its runner could else keep the event loop at work: 8 MiB take seconds to refuse."""
    async with gateway_world(tmp_path, engines=[ECHO]) as world:
        reader, most = CardReader(world.sidecar), [new_job_id() for _ in range(4 * JOBS_AT_ONCE_MAX)]
        await world.runner.beat(in_hand=most)
        (beat,) = await reader.read_workers(engine(world), force=True)
        assert beat.in_hand == most

        await world.runner.beat(in_hand=most * 2)
        assert await reader.read_workers(engine(world), force=True) == []

        await world.runner.beat()
        assert len(await reader.read_workers(engine(world), force=True)) == 1
        await world.sidecar.put(ECHO_STORE, WORKERS_KEY, b'{"workers":["worker-1"' + b',"w"' * 20_000 + b"]}")
        assert await reader.read_workers(engine(world), force=True) == []
