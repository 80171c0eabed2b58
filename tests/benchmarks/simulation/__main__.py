"""Simulates cells with the costs that `make bench` has recorded, and writes the tables of docs/scale.md: `make capacity`."""

from tests.benchmarks.simulation.document import DOCS, PARTS, document, recorded
from tests.benchmarks.simulation.tables import Tables


def main() -> None:
    """Print the tables, and write them into the document."""
    tables, path = Tables(recorded()), DOCS / "scale.md"
    path.write_text(document(tables, path.read_text()))
    for part in ("checked", "capacity"):
        print(PARTS[part](tables), end="\n\n")


if __name__ == "__main__":
    main()
