"""One stack for the tests of this folder, with two engines: the broker of one of them delivers again soon."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.api import Api
from tests.faults.evidence import Evidence, make_witness
from tests.support.stack import StackHandle, start_stack

from enginehouse.local.home import Home
from enginehouse.registry.deploy import deploy_engine


@dataclass(frozen=True)
class Witnessed:
    """A stack, the runs that its engines wrote down, and the API as their tenant sees it."""

    stack: StackHandle
    evidence: Evidence

    def api(self) -> Api:
        """Return a new client."""
        return Api([self.stack.base_url], self.stack.keys["tests"])


@pytest.fixture(scope="session")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witnessed]:
    folder: Path = tmp_path_factory.mktemp("faults")
    evidence = Evidence(folder / "runs")
    evidence.folder.mkdir()
    home = Home.at(folder / "home")
    impatient = deploy_engine(home.engines, make_witness(folder, "impatient", evidence))
    jobs = home.engines / impatient.id / "slots" / "a" / "dapr" / "jobs.yaml"
    text = jobs.read_text().replace("value: 150s", "value: 3s").replace("value: '15000'", "value: '1000'")
    assert "value: 3s" in text, text
    assert "'1000'" in text, text
    jobs.write_text(text)
    env = {"ENGINEHOUSE_GATEWAY_WEBHOOK_ALLOW_INSIDE": "true"}
    stack = start_stack(home.path, [make_witness(folder, "witness", evidence)], env=env)
    try:
        stack.until_engine(impatient.id)
        yield Witnessed(stack, evidence)
    finally:
        stack.stop()
