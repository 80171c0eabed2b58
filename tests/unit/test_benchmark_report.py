"""The report of `make bench`: medians, ratios within a round, and which aims are met."""

import pytest
from tests.benchmarks.aims import AIMS, Aim
from tests.benchmarks.filled import ENGINES, listings
from tests.benchmarks.measure import rotated
from tests.benchmarks.record import picture, summary
from tests.benchmarks.report import conditions, tables
from tests.benchmarks.results import BATCHES, FEW, MANY, ONE, Results

_RATIO = Aim("jobs/s to theirs", MANY, "per_second", "ours", "≥", 3, "theirs")
_MEMORY = Aim("memory", "idle", "mib", "ours", "≤", 100, unit=" MiB")


def _results(load: str, measure: str, **systems: list[float]) -> Results:
    results = Results()
    for system, numbers in systems.items():
        for number in numbers:
            results.add(load, system, **{measure: number})
    return results


def test_a_ratio_is_taken_within_each_round_before_the_median() -> None:
    results = _results(MANY, "per_second", ours=[100, 400, 900], theirs=[100, 100, 300])
    # The ratio of the medians would be 4.
    assert _RATIO.reached(results) == 3


def test_a_round_that_was_cut_off_is_left_out_of_ratios() -> None:
    assert _RATIO.reached(_results(MANY, "per_second", ours=[2, 800], theirs=[1])) == 2


def test_a_number_of_one_system_is_the_median_of_its_rounds() -> None:
    assert _MEMORY.reached(_results("idle", "mib", ours=[90, 250, 110])) == 110


@pytest.mark.parametrize(("aim", "below", "at", "above"), [(_RATIO, False, True, True), (_MEMORY, True, True, False)])
def test_an_aim_is_met_from_its_limit_on(aim: Aim, below: bool, at: bool, above: bool) -> None:
    assert [aim.met(aim.limit + more) for more in (-0.01, 0, 0.01)] == [below, at, above]


def test_what_was_not_measured_is_said_to_be_so() -> None:
    assert {row[-1] for row in tables(Results())[0].body} == {"not measured"}


def test_every_aim_is_in_the_table_with_what_was_reached() -> None:
    results = Results()
    for aim in AIMS:
        for system in {aim.system, aim.other or aim.system}:
            if not results.of(aim.load, system, aim.measure):
                results.add(aim.load, system, **{aim.measure: 50})
    rows = {what: (limit, reached, judged) for what, limit, reached, judged in tables(results)[0].body}
    assert list(rows) == [aim.what for aim in AIMS]
    assert rows["jobs/s, 64 callers, to Celery's"] == ("≥ 3", "1.00", "not met")
    assert rows["idle memory of the gateway, PSS"] == ("≤ 100 MiB", "50.00 MiB", "met")


def test_the_text_and_the_picture_name_what_was_measured() -> None:
    results = Results()
    for load, factor in ((ONE, 1), (FEW, 2), (MANY, 4), (BATCHES, 8)):
        for system, rate in (("enginehouse", 600), ("celery", 200), ("celery durable", 100), ("procrastinate", 50)):
            results.add(
                load, system, per_second=factor * rate, p50_ms=1000 / rate, p99_ms=5, cpu_ms=2, others_percent=7
            )
    text = summary(results)
    assert "2,400 jobs/s; 3.0 times Celery's, 6.0 times those of Celery where it loses no task, 12.0 times Pro" in text
    assert "4,800 jobs/s, 3.0 times Celery's" in text
    assert picture(results).count("<rect") == 1 + 3 * 4
    shown = "".join(table.markdown() for table in tables(results))
    assert "| Celery, durable | 10.0 / 5.0 ms | 200 | 400 | 800 | 2.00 ms |" in shown
    assert "other programs used 7 % of the machine in the median burst" in conditions(results, 5, 1_000)


def test_each_round_begins_with_another_system() -> None:
    assert [rotated(["a", "b", "c"], number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_every_listing_has_a_name_of_its_own() -> None:
    paths = listings()
    assert paths["status queued, one engine"] == f"/v1/jobs?limit=50&engine={ENGINES[0]}&status=queued"
    assert paths["engines"].startswith("/v1/engines")
    assert len(set(paths.values())) == len(paths)
