"""What is known of quarantined engines: it holds although it cannot be kept, and a start begins with what was kept."""

from pathlib import Path

from enginehouse.registry.known_quarantines import KnownQuarantines, engines_in

LISTED = [
    {"engine": "acme--echo", "reason": "wrong answers", "by_operator": True},
    {"engine": "acme--echo@trial", "reason": "hangs", "by_operator": False},
]


async def test_a_disk_that_takes_nothing_keeps_no_quarantined_engine_running(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("a file, in which no other can be written")
    known = KnownQuarantines(tmp_path, tmp_path / "full" / "quarantined.json")
    assert await known.take(LISTED) == {"acme--echo", "acme--echo@trial"}
    assert engines_in(known.found) == {"acme--echo"}
    assert known.found["acme--echo"].holds("any content")


async def test_a_start_begins_with_what_was_kept(tmp_path: Path) -> None:
    known = KnownQuarantines(tmp_path, tmp_path / "quarantined.json")
    await known.take(LISTED)
    assert await known.take(LISTED) == set()
    again = KnownQuarantines(tmp_path, known.file)
    again.read()
    assert again.found == known.found
