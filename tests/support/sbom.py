"""Writes the bills of materials of what we ship, in CycloneDX: our Python environment, and the base image. `make sbom`."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot5
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

_ROOT = Path(__file__).resolve().parents[2]
_IMAGE = f"enginehouse/python:{sys.version_info.major}.{sys.version_info.minor}"
_LOOK = r"""
. /etc/os-release; echo "$ID $VERSION_ID"; python -c 'import platform; print(platform.python_version())'
dpkg-query -W -f '${db:Status-Status} ${Package} ${Version} ${Architecture}\n'
"""


def environment_bill() -> str:
    """Return the bill of the Python packages that uv.lock names for Enginehouse, tests apart."""
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    assert uv, "uv lies in the environment, or on PATH"
    command = [uv, "export", "--format", "cyclonedx1.5", "--frozen", "--no-dev", "--all-extras", "--quiet"]
    # It warns on stderr that the format is a preview of uv's.
    return subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout


def image_bill(image: str, looked: Iterable[str]) -> str:
    """Return the bill of an image: its Debian packages and its Python. `looked` are the lines that _LOOK prints there."""
    system, python, *packages = (line.strip() for line in looked)
    distribution, version = system.split()
    bom = Bom()
    bom.metadata.component = Component(name=image, type=ComponentType.CONTAINER, bom_ref="image")
    parts = [
        Component(name=distribution, version=version, type=ComponentType.OPERATING_SYSTEM),
        Component(
            name="python",
            version=python,
            type=ComponentType.PLATFORM,
            purl=PackageURL("generic", None, "python", python),
        ),
    ]
    for package in packages:
        status, name, found, architecture = package.split()
        if status == "installed":
            qualifiers = {"arch": architecture, "distro": f"{distribution}-{version}"}
            purl = PackageURL("deb", distribution, name, found, qualifiers)
            parts.append(Component(name=name, version=found, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl)))
    bom.components.update(parts)
    bom.register_dependency(bom.metadata.component, parts)
    return JsonV1Dot5(bom).output_as_string(indent=2) + "\n"


def mistake_in(bill: str) -> str | None:
    """Say what of a bill does not fit the schema of CycloneDX 1.5; None if it fits."""
    found = JsonStrictValidator(SchemaVersion.V1_5).validate_str(bill)
    return str(found) if found else None


def _look_into(image: str) -> list[str]:
    sealed = ["--rm", "--network", "none", "--read-only", "--user", "1000:3000", "--cap-drop", "ALL"]
    done = subprocess.run(["docker", "run", *sealed, image, "sh", "-c", _LOOK], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"make sbom: {image} cannot be looked into: {done.stderr.strip()}\n'make base-image' makes it.")
    return done.stdout.splitlines()


def _write(path: Path, bill: str) -> None:
    if mistake := mistake_in(bill):
        sys.exit(f"make sbom: {path} would be no CycloneDX: {mistake}")
    path.write_text(bill)
    print(path)


def main(folder: Path) -> None:
    """Write both bills into `folder`. Exit with the reason if there is no Docker Engine or no base image."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "enginehouse.cdx.json", environment_bill())
    _write(folder / f"{_IMAGE.replace('/', '-').replace(':', '-')}.cdx.json", image_bill(_IMAGE, _look_into(_IMAGE)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
