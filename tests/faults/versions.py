"""Deploys one version of an engine after another, and kills something while each takes over."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from tests.faults.campaign import Fault
from tests.faults.load import Load
from tests.support.stack import StackHandle, until

from enginehouse.contracts.names import Slot, app_id
from enginehouse.registry.deploy import busy_slot, deploy_engine
from enginehouse.registry.versions import Versions, read_versions

_TAKEN_OVER_SECONDS = 90.0


@dataclass
class NewVersions:
    """Brings new versions of an engine, whose folder is `source`, into a stack that runs it."""

    stack: StackHandle
    source: Path
    active: list[str] = field(default_factory=list)
    """The versions that have got the engine's jobs."""

    @property
    def engine(self) -> str:
        """Return the engine's id."""
        return f"tests--{self.source.name}"

    def faults(self) -> list[Fault]:
        """Return a fault for each process that may die while a version takes over. Each brings a version of its own."""
        targets: dict[str, Callable[[Slot], object]] = {
            "gateway": lambda _: self.stack.kill("gateway"),
            "gateway.daprd": lambda _: self.stack.kill("gateway.daprd"),
            "the runner before": partial(self._kill_runner, new=False),
            "the new runner": partial(self._kill_runner, new=True),
        }
        faults = [
            Fault(f"new version + kill {name}", partial(self.take_over, kill), counts_from_start=False)
            for name, kill in targets.items()
        ]
        return [*faults, Fault("new version + kill promote", self.promote_twice, counts_from_start=False)]

    def take_over(self, kill: Callable[[Slot], object]) -> None:
        """Deploy a version, and call `kill` with its slot at the moment at which it gets the engine's jobs."""
        before = self._read().active
        version = self._deploy(promote=True)
        slot = self._until_active_is_not(before)
        kill(slot)
        self._until_it_answers(version)

    def promote_twice(self) -> None:
        """Deploy a version on trial; kill the command that promotes it in the middle, and give the command again."""
        before = self._read().active
        version = self._deploy(promote=False)
        until(self._is_trial_running, f"{version} is on trial", _TAKEN_OVER_SECONDS)
        command = [sys.executable, "-m", "enginehouse.cli.main", "engines", "promote", self.engine]
        command += ["--home", str(self.stack.home.path)]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._until_active_is_not(before)
        first.send_signal(signal.SIGKILL)
        first.wait()
        if self._read().trial is not None:
            subprocess.run(command, check=True, capture_output=True, timeout=_TAKEN_OVER_SECONDS)
        self._until_it_answers(version)

    def _deploy(self, *, promote: bool) -> str:
        path = self.source / "engine.yaml"
        spec = yaml.safe_load(path.read_text())
        version = f"v{len(self.active) + 2}"
        spec |= {"version": version, "run": {**spec["run"], "env": {**spec["run"]["env"], "VERSION": version}}}
        path.write_text(yaml.safe_dump(spec))
        deploy_engine(self.stack.home.engines, self.source, promote=promote)
        return version

    def _read(self) -> Versions:
        return read_versions(self.stack.home.engines / self.engine)

    def _is_trial_running(self) -> bool:
        return bool(self.stack.state()["trials"].get(self.engine, {}).get("state") == "running")

    def _until_active_is_not(self, before: Slot | None) -> Slot:
        until(lambda: self._read().active != before, f"{self.engine} has another version", _TAKEN_OVER_SECONDS)
        active = self._read().active
        assert active
        return active

    def _kill_runner(self, slot: Slot, *, new: bool) -> None:
        other: Slot = "b" if slot == "a" else "a"
        name = f"{app_id(self.engine, slot if new else other)}.runner"
        if name in self.stack.processes():  # The one before may have ended already.
            self.stack.kill(name)

    def _until_it_answers(self, version: str) -> None:
        until(lambda: self._shown_version() == version, f"{version} is shown", _TAKEN_OVER_SECONDS)
        # The next version needs the slot of the one before.
        until(lambda: busy_slot(self.stack.home.engines / self.engine) is None, "the slot is free", _TAKEN_OVER_SECONDS)
        self.active.append(version)

    def _shown_version(self) -> str | None:
        try:
            view = self.stack.call("GET", f"/v1/engines/{self.engine}", tenant="tests").body
        except OSError:
            return None  # The gateway starts again.
        return view.get("version") if view.get("health") == "healthy" else None

    def judge(self, load: Load) -> list[str]:
        """Say which jobs do not name the version that answered them, and which versions answered none. For the end."""
        found, answered = [], set()
        for sent in load.present():
            if sent.engine != self.engine or not sent.seen or sent.seen[0]["status"] != "succeeded":
                continue
            version, gave = sent.seen[0]["version"], sent.seen[0]["output"]["version"]
            answered.add(version)
            if version != gave:
                found.append(f"{sent.key} ({sent.id}) says that {version} answered it, and {gave} did")
        return [*found, *(f"no job was answered by {version}" for version in self.active if version not in answered)]
