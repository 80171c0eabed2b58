"""Check how an engine under test answers several inputs at once, and how long it takes."""

import asyncio
import statistics
import time

from enginehouse.authoring.answers import Described, Example, raise_if_ended
from enginehouse.authoring.asking import Asker
from enginehouse.authoring.findings import Report
from enginehouse.runner.clients.base import Busy
from enginehouse.runner.outcome import Succeeded
from enginehouse.runner.schema import batch_offer

_REPEATED = 3
_REPEAT_MAX_SECONDS = 5.0
"""An example that takes longer is not measured again."""
_SERIAL = 1.7
"""Two jobs at once that take so many times the time of one were worked on one after the other."""
_SERIAL_MIN_SECONDS = 0.1
"""Below this, what else the machine does would be measured."""
_CLOSE_TO_LIMIT = 0.5


async def check_concurrency(asker: Asker, report: Report, example: Example) -> None:
    """Report whether the engine works on two jobs at the same time, if engine.yaml says that it may be given two."""
    concurrency = asker.alone.spec.concurrency
    if concurrency < 2:
        return
    began = time.monotonic()
    first, second = await asyncio.gather(asker.ask(example.data), asker.ask(example.data))
    took = time.monotonic() - began
    for asked in (first, second):
        if isinstance(asked.reply, Busy):
            report.failed(
                "two at once", f"It has no room for two jobs, and `concurrency` in engine.yaml is {concurrency}"
            )
            return
        if not isinstance(asked.reply, Succeeded):
            said, words = await asker.explain(example.data, asked.reply)
            report.failed("two at once", f"Its example, sent twice at the same time, {said}", words)
            raise_if_ended(asker)
            return
    if warning := asker.client.warning:
        report.note("two at once", warning)
    elif example.seconds >= _SERIAL_MIN_SECONDS and took > _SERIAL * example.seconds:
        report.note(
            "two at once",
            f"Two jobs took {took:.1f} s, and one takes {example.seconds:.1f} s: it works on one after the other, or one "
            f"uses every core. With `concurrency: 1`, which is {concurrency} now, no job waits in the engine.",
        )
    else:
        report.ok("two at once", "Two jobs at the same time are answered")


async def check_batch(asker: Asker, report: Report, described: Described, example: Example) -> None:
    """Report how the engine answers two jobs in one call, if engine.yaml allows it to be given several."""
    size = asker.alone.spec.batch.max_size
    if size == 1:
        return
    if described.openapi is None or not batch_offer(described.openapi).batches:
        report.note(
            "batch",
            f"batch.max_size in engine.yaml is {size}, and its /openapi.json has no POST /predict/batch (`predict_batch` in "
            "Python), so jobs come one by one",
        )
        return
    replies = await asker.ask_batch([example.data, example.data])
    wrong = [reply for reply in replies if not isinstance(reply, Succeeded)]
    if wrong:
        said, words = await asker.explain(example.data, wrong[0])
        report.failed("batch", f"Its example, sent twice in one call, {said}", words)
        raise_if_ended(asker)
    else:
        report.ok("batch", "Two jobs in one call are answered")


async def check_time(asker: Asker, report: Report, examples: list[Example]) -> list[Example]:
    """Report how long each example takes, and return them with the time once the engine is warm."""
    limit, measured = asker.alone.spec.execution_timeout_seconds, []
    for example in examples:
        times = [example.seconds]
        while len(times) <= _REPEATED and times[0] <= _REPEAT_MAX_SECONDS:
            asked = await asker.ask(example.data)
            if not isinstance(asked.reply, Succeeded):
                said, words = await asker.explain(example.data, asked.reply)
                report.failed("time", f"An example that was answered once {said} when it comes again", words)
                raise_if_ended(asker)
                break
            times.append(asked.seconds)
        # The first answer may be slower, because much is loaded only then.
        measured.append(Example(example.data, statistics.median(times[1:] or times)))
    slowest = max(example.seconds for example in measured)
    said = f"{_span(slowest)} of the {limit:g} s that execution_timeout_seconds allows"
    if slowest > _CLOSE_TO_LIMIT * limit:
        report.note("time", f"{said}: on a busy machine that may not be enough")
    else:
        report.ok("time", said)
    return measured


def _span(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
