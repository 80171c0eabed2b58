"""What is applied together, to one namespace: a folder for kustomize, or the objects themselves."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

Object = dict[str, Any]
KUSTOMIZATION = "kustomization.yaml"


@dataclass(frozen=True, slots=True)
class Part:
    """Objects of one namespace, by the file that they are in."""

    name: str
    namespace: str
    files: dict[str, list[Object]]

    def objects(self) -> list[Object]:
        """Return all objects, each with its namespace, to be applied as they are."""
        found = [copy.deepcopy(item) for items in self.files.values() for item in items]
        for item in found:
            if item["kind"] != "Namespace":
                item["metadata"]["namespace"] = self.namespace
        return found

    def texts(self) -> dict[str, str]:
        """Return the folder's files by path, with the kustomization that names them and, once, the namespace.

        None if there is nothing to apply: kustomize refuses an empty folder.
        """
        if not self.files:
            return {}
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": list(self.files),
        }
        content = {KUSTOMIZATION: [kustomization], **self.files}
        return {f"{self.name}/{path}": _text(items) for path, items in content.items()}


def texts_of(parts: Iterable[Part]) -> dict[str, str]:
    """Return the files of all parts, by path."""
    return {path: text for part in parts for path, text in part.texts().items()}


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block, and each thing in full where it stands twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _block(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _text(items: list[Object]) -> str:
    return yaml.dump_all(items, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=len(items) > 1)
