"""Check the files that engines and tenants add to the gateway's sidecar, and put them into the folder it watches."""

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from enginehouse.contracts.names import GATEWAY_APP, requests_component, results_component, retired_component
from enginehouse.registry.bundle import RETIRED_FILE, InvalidBundle, is_retired


def read_object(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a file with one Dapr object, as bytes and as data.

    Raise InvalidBundle for a file that daprd would ignore.
    """
    content = path.read_bytes()
    try:
        documents = [document for document in yaml.safe_load_all(content) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidBundle(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise InvalidBundle(f"{path} must hold exactly one object")
    return content, documents[0]


def check_part(path: Path, name: str) -> bytes:
    """Return one file of a gateway part if it cannot harm the gateway's sidecar. Raise InvalidBundle otherwise.

    Its object must be named `name`: two components of one name stop a local daprd. It must be scoped to the gateway
    alone, and must tolerate its own failure: a component that fails to start stops daprd.
    """
    content, found = read_object(path)
    _check_object(path, found, name)
    return content


def _check_object(path: Path, content: dict[str, Any], name: str) -> None:
    metadata, spec = content.get("metadata"), content.get("spec")
    if not isinstance(metadata, dict) or metadata.get("name") != name:
        raise InvalidBundle(f"{path} must be named {name}")
    if content.get("scopes") != [GATEWAY_APP]:
        raise InvalidBundle(f"{path} must have scopes [{GATEWAY_APP}]")
    if content.get("kind") not in ("Component", "Subscription"):
        raise InvalidBundle(f"{path} must be a Component or a Subscription")
    tolerant = isinstance(spec, dict) and spec.get("ignoreErrors") is True and spec.get("initTimeout")
    if content["kind"] == "Component" and not tolerant:
        raise InvalidBundle(f"{path} must have ignoreErrors: true and an initTimeout")


class GatewayParts:
    """The files in the gateway sidecar's folder, by the bundle they came from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, owner: str, bundle: Path) -> None:
        """Copy the gateway part of `bundle` into the folder.

        Raise InvalidBundle, and change nothing, if it is not allowed. That an engine is being removed is told in any case.
        """
        marker = f"{owner}.{Path(RETIRED_FILE).name}"
        if is_retired(bundle):
            # Whatever is wrong with the other files: an engine that is being removed takes no more jobs.
            self._write(self._folder / marker, check_part(bundle / RETIRED_FILE, retired_component(owner)))
        name = results_component(owner) if "--" in owner else requests_component(owner)
        paths = [path for path in sorted((bundle / "gateway").glob("*.yaml")) if path != bundle / RETIRED_FILE]
        wanted = {f"{owner}.{path.name}": check_part(path, name) for path in paths}
        kinds = [path.split(".", 1)[1] for path in wanted]
        if len({yaml.safe_load(content)["kind"] for content in wanted.values()}) != len(kinds):
            raise InvalidBundle(f"{bundle / 'gateway'} holds two objects of the same kind and name")
        kept = {*wanted, marker} if is_retired(bundle) else {*wanted}
        for path in self._files_of(owner):
            if path.name not in kept:
                path.unlink()
        for file, content in wanted.items():
            self._write(self._folder / file, content)

    def remove(self, owner: str) -> None:
        """Remove the files that came from the bundle of `owner`."""
        for path in self._files_of(owner):
            path.unlink()

    def owners(self) -> set[str]:
        """Return the owners of the files."""
        return {path.name.split(".", 1)[0] for path in self._folder.glob("*.yaml")}

    def _files_of(self, owner: str) -> list[Path]:
        return list(self._folder.glob(f"{owner}.*.yaml"))

    def _write(self, path: Path, content: bytes) -> None:
        if path.exists() and path.read_bytes() == content:
            return
        # Written outside the folder and renamed into it, because daprd must never read half a file.
        descriptor, fresh = tempfile.mkstemp(dir=self._folder.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(fresh, path)
