"""`make manifests`: judges all objects for Kubernetes, rendered and shipped, by checkov; each exception has a reason here.

checkov comes from PyPI into a place of its own, as it would triple what the tests install.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.support.rendered import every_shape

_ROOT = Path(__file__).resolve().parents[2]
_VERSION = "3.3.30"
_ENGINE, _RUNNER = r".+: Deployment\..+--[ab]", r".+: Deployment\..+--[ab]-runner"
_CORE, _TRIAL = r"k8s/overlays/\w+: Deployment\..+", r"k8s/overlays/\w+: StatefulSet\..+"
_REGISTRY = r"k8s/overlays/\w+: StatefulSet\.enginehouse\.registry"
_LOCAL = r"k8s/overlays/local: .+"
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("CKV_K8S_8", _ENGINE): "an engine at work may not answer for long; its runner judges the time of each call",
    ("CKV_K8S_9", _ENGINE): "the same: it is ready once it has answered, which its startup probe asks, and for good",
    (
        "CKV_K8S_35",
        _RUNNER,
    ): "its settings are variables everywhere; engines run in other pods, and none reads a runner's",
    ("CKV_K8S_40", _ENGINE): "user 1000, as in a container on one machine, so that an image works in both places",
    ("CKV_K8S_11", _CORE): "ours, and trusted: what is idle on the node it may use, and what it needs is promised",
    ("CKV_K8S_35", _CORE): "its settings are variables everywhere; nobody else's code runs in its pod",
    ("CKV_K8S_35", _REGISTRY): "the same: its settings are variables everywhere",
    ("CKV_K8S_38", _REGISTRY): "it brings the cluster to what its home says, with the rights of its own roles",
    ("CKV_K8S_11", _TRIAL): "to try it out: what is idle on the node they may use, and what they need is promised",
    ("CKV_K8S_40", _TRIAL): "the users of the official images, who own the files there",
    ("CKV_K8S_15", _LOCAL): "images are made on this machine, and in no registry",
    ("CKV_K8S_43", _LOCAL): "an image that is in no registry has no digest",
}
"""By check and object, as a pattern: why it is as it is."""


def main() -> int:
    """Print what checkov finds that no exception explains, and exceptions that nothing needs. Return the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        _write(Path(scratch))
        failed = list(_failed(_checkov(Path(scratch))))
    needed, unexplained = Counter[tuple[str, str]](), []
    for check, what, resource in failed:
        fitting = [key for key in EXCEPTIONS if key[0] == check and re.fullmatch(key[1], resource)]
        needed.update(fitting)
        if not fitting:
            unexplained.append(f"{check} {resource}: {what}")
    for line in sorted({*unexplained}):
        print(line)
    unneeded = [key for key in EXCEPTIONS if key not in needed]
    for check, pattern in unneeded:
        print(f"no object needs the exception {check} of {pattern} any longer")
    if not unexplained and not unneeded:
        print(f"checkov finds nothing beside {len(EXCEPTIONS)} exceptions that are explained")
    return 1 if unexplained or unneeded else 0


def _write(folder: Path) -> None:
    for name, parts in every_shape().items():
        for part in parts:
            if part.files:
                (folder / f"{name}-{part.name}.yaml").write_text(yaml.safe_dump_all(part.objects()))
    if shutil.which("kubectl") is None:
        print("without kubectl, which builds them, the folders of k8s/ are not judged")
        return
    # What is applied: the base is a part of each overlay.
    for applied in [_ROOT / "k8s" / "policies", *sorted((_ROOT / "k8s" / "overlays").iterdir())]:
        (folder / applied.relative_to(_ROOT)).mkdir(parents=True)
        built = _said("kubectl", "kustomize", str(applied))
        (folder / applied.relative_to(_ROOT) / "built.yaml").write_text(built)


def _checkov(folder: Path) -> Any:
    uv = shutil.which("uv") or str(_ROOT / ".venv" / "bin" / "uv")
    options = [
        "--framework",
        "kubernetes",
        "--quiet",
        "--compact",
        "--skip-download",
        "--soft-fail",
        "--output",
        "json",
    ]
    return json.loads(_said(uv, "tool", "run", f"checkov=={_VERSION}", "--directory", str(folder), *options))


def _failed(report: Any) -> Iterator[tuple[str, str, str]]:
    """Return each check that failed: its id, what it wants, and the object, as `folder: Kind.namespace.name`."""
    for part in report if isinstance(report, list) else [report]:
        for found in part["results"]["failed_checks"]:
            place = found["file_path"].strip("/").removesuffix("/built.yaml").removesuffix(".yaml")
            yield found["check_id"], found["check_name"], f"{place}: {found['resource']}"


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr.strip()[-2_000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
