"""The simulated cell says what the benchmark has recorded, and the document says what the simulation says."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.benchmarks.simulation.cell import Cell, Shape
from tests.benchmarks.simulation.checked import CASES, WITHIN, Case, Compared, compare
from tests.benchmarks.simulation.costs import Cost, Costs
from tests.benchmarks.simulation.document import DOCS, document, recorded
from tests.benchmarks.simulation.loads import at_rate, burst, with_callers
from tests.benchmarks.simulation.plan import objects_of_engine
from tests.benchmarks.simulation.tables import Tables


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(recorded())


@pytest.fixture(scope="module")
def costs(tables: Tables) -> Costs:
    return tables.costs


def _far_off(found: Sequence[Compared]) -> list[str]:
    judged = [one for one in found if one.measure in ("per_second", "p50_ms")]
    return [
        f"{one.name}: {one.measure} was recorded as {one.recorded:.1f}, and is simulated as {one.simulated:.1f} ({one.off:+.0%})"
        for one in judged
        if abs(one.off) > WITHIN
    ]


class TestItSaysWhatWasRecorded:
    """At every load of the benchmark."""

    @pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
    def test_jobs_per_second_and_p50_are_near_those_that_were_recorded(self, tables: Tables, number: int) -> None:
        assert not _far_off(tables.compared[number])

    @pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
    @pytest.mark.parametrize("factor", [0.6, 1.6])
    def test_other_costs_are_noticed(self, costs: Costs, case: Case, factor: float) -> None:
        others = {name: _times(cost, factor) for name, cost in costs.steps.items()}
        assert _far_off(compare(recorded(), Costs(others, costs.postgres), case, seconds=1))

    def test_jobs_that_share_nothing_are_noticed(self, costs: Costs) -> None:
        alone = {name: replace(cost, turn=0.0, job=cost.job + cost.turn) for name, cost in costs.steps.items()}
        assert _far_off(compare(recorded(), Costs(alone, costs.postgres), CASES[2], seconds=1))


def _times(cost: Cost, factor: float) -> Cost:
    return Cost(cost.turn * factor, cost.event * factor, cost.job * factor, cost.cold * factor)


def test_a_job_alone_costs_what_was_recorded(tables: Tables, costs: Costs) -> None:
    (cpu,) = (one for one in tables.compared[0] if one.measure == "cpu_ms")
    assert sum(cost.turn + cost.event + cost.job + cost.cold for cost in costs.steps.values()) == pytest.approx(
        cpu.recorded, rel=0.1
    )


_SMALL = Shape(engines=3, gateways=2)


class TestACell:
    """What must hold in any of them."""

    def test_a_run_is_the_same_each_time(self, costs: Costs) -> None:
        assert with_callers(Cell(_SMALL, costs), 4, 0.5) == with_callers(Cell(_SMALL, costs), 4, 0.5)

    def test_no_job_is_lost(self, costs: Costs) -> None:
        cell = Cell(_SMALL, costs)
        jobs = [cell.submit(number % 2) for number in range(300)]
        cell.env.run(20)
        assert cell.unfinished == 0
        assert all(job.ended.processed for job in jobs)

    def test_no_window_takes_more_than_it_holds(self, costs: Costs) -> None:
        cell = Cell(replace(_SMALL, window=8, engines=1), costs)
        for _ in range(100):
            cell.submit(0)
        while cell.unfinished:
            cell.env.step()
            assert 0 <= cell.in_window[0] <= 8

    def test_an_engine_does_no_more_than_its_replicas_can(self, costs: Costs) -> None:
        slow = replace(_SMALL, engines=1, predict_seconds=0.1, at_once=4)
        assert with_callers(Cell(slow, costs), 64, 5).per_second == pytest.approx(40, rel=0.15)

    def test_a_steady_load_below_its_capacity_is_worked_off(self, costs: Costs) -> None:
        assert at_rate(Cell(_SMALL, costs), 100, 4).per_second == pytest.approx(100, rel=0.1)

    def test_slower_commits_make_jobs_slower(self, costs: Costs) -> None:
        found = [at_rate(Cell(replace(_SMALL, sync_seconds=each), costs), 50, 1).p50_ms for each in (0.001, 0.1)]
        assert found[1] > found[0] + 100

    def test_a_burst_is_worked_off(self, costs: Costs) -> None:
        found = burst(Cell(replace(_SMALL, engines=50), costs), 300, 6)
        assert 0 < found.until_rest_seconds < 10


def test_the_document_is_up_to_date(tables: Tables) -> None:
    text = (DOCS / "scale.md").read_text()
    assert document(tables, text) == text, "run 'make capacity'"


def test_an_edited_table_is_noticed(tables: Tables) -> None:
    text = (DOCS / "scale.md").read_text()
    assert document(tables, text.replace("| cells | 1 |", "| cells | 2 |")) == document(tables, text) != ""
    with pytest.raises(ValueError, match="needs a line"):
        document(tables, text.replace("<!-- simulated: capacity", "<!-- "))


def test_the_document_says_how_many_objects_an_engine_has() -> None:
    assert f"| {objects_of_engine()} objects for an engine" in (DOCS / "scale.md").read_text()
