"""Render an engine's folder for a cluster as its first version, without anything that is deployed."""

import tempfile
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.registry.bundle import ENGINE_FILE, InvalidBundle, read_spec, render_engine, write_bundle
from enginehouse.registry.content import content_hash, read_example
from enginehouse.registry.kubernetes.engine import check_image, render_engine_parts
from enginehouse.registry.kubernetes.parts import KUSTOMIZATION, Part
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.kubernetes.source import read_source


def render_folder(folder: Path, cluster: ClusterSettings) -> tuple[EngineSpec, list[Part]]:
    """Return the engine.yaml in `folder`, and the engine's two parts. Raise InvalidBundle, or NoImage."""
    spec = read_spec(folder / ENGINE_FILE)
    check_image(spec)
    content = content_hash(folder, spec.fetch)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / spec.id
        write_bundle(bundle, render_engine(spec, ".", content, read_example(folder)))
        return spec, render_engine_parts(read_source(bundle), cluster)


def write_parts(into: Path, parts: list[Part]) -> list[str]:
    """Write each part as a folder in `into`, in place of the one before; return the paths of all files, sorted.

    Raise InvalidBundle, before anything is written, if a folder of that name is none of ours.
    """
    for part in parts:
        there = into / part.name
        if there.exists() and not (there / KUSTOMIZATION).is_file():
            raise InvalidBundle(f"{there} is there already, and is no folder for kustomize")
    for part in parts:
        files = {path.removeprefix(f"{part.name}/"): text for path, text in part.texts().items()}
        write_bundle(into / part.name, files)
    return sorted(path for part in parts for path in part.texts())
