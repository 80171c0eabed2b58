"""Reads the runs of every job that the engine wrote down: when each began, and when it ended if it did."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

_WITNESS = Path(__file__).parent / "witness"


@dataclass(slots=True)
class Run:
    """One run at the engine. `ended` None: it did not come to its end."""

    id: str
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The folder that the engine writes into, a file for each job's key."""

    folder: Path

    def runs(self, key: str) -> list[Run]:
        """Of one job, in the order in which they began."""
        try:
            lines = (self.folder / key).read_text().splitlines()
        except FileNotFoundError:
            return []
        runs: dict[str, Run] = {}
        for entry in map(json.loads, lines):
            if "began" in entry:
                runs[entry["run"]] = Run(entry["run"], entry["began"])
            else:
                runs[entry["run"]].ended = entry["ended"]
        return list(runs.values())


def make_witness(folder: Path, name: str, evidence: Evidence, **env: str) -> Path:
    """A folder of the witness engine under this name, writing into `evidence`; `env` is for its process, too."""
    copy = folder / name
    shutil.copytree(_WITNESS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    spec = yaml.safe_load((copy / "engine.yaml").read_text())
    spec |= {"name": name, "run": {**spec["run"], "env": {"RUNS": str(evidence.folder), **env}}}
    (copy / "engine.yaml").write_text(yaml.safe_dump(spec))
    return copy
