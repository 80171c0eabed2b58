"""`enginehouse engines render` and `tenant render`: write what is deployed, to read, edit and commit it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from enginehouse.cli.console import print_exactly, print_json, say
from enginehouse.cli.options import JsonOption
from enginehouse.contracts.base import explain
from enginehouse.contracts.names import check_name
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.deploy import deploy_engine
from enginehouse.registry.kubernetes.folder import render_folder, write_parts
from enginehouse.registry.kubernetes.parts import Part
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.kubernetes.tenant import render_tenant_parts
from enginehouse.registry.tenants import InvalidSetting
from enginehouse.yaml_files import read_yaml

ENGINE_EXAMPLES = """Examples:

enginehouse engines render sentiment/ --into bundles

enginehouse engines render sentiment/ --kubernetes --into sentiment-in-kubernetes

enginehouse engines render sentiment/ --kubernetes --into out --cluster cluster.yaml"""

TENANT_EXAMPLES = """Examples:

enginehouse tenant render acme --into acme-in-kubernetes

enginehouse tenant render acme --into out --cluster cluster.yaml"""

_PANEL = "Of the cluster"

IntoOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder to write to. What an earlier call wrote there is replaced.")
]
ClusterOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="YAML file of the cluster's settings, such as broker_cidrs and placement (docs/kubernetes.md).",
        exists=True,
        dir_okay=False,
        rich_help_panel=_PANEL,
    ),
]
ImageOption = Annotated[
    str | None,
    typer.Option(
        metavar="IMAGE",
        help="Image of Enginehouse, from which runners start.",
        show_default="enginehouse of this version",
        rich_help_panel=_PANEL,
    ),
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Broker and store.",
        show_default="Redis in namespace enginehouse",
        rich_help_panel=_PANEL,
    ),
]


def render(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with engine.yaml.", exists=True, file_okay=False)
    ],
    into: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder to write to. A home's bundle with an earlier version gets the next one beside it; objects for "
            "Kubernetes are replaced.",
        ),
    ],
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Write its objects for Kubernetes. It needs an image by its digest.")
    ] = False,
    cluster: ClusterOption = None,
    services_image: ImageOption = None,
    broker: BrokerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what 'deploy' would write, to read, edit and commit it. Copied into a home, it is deployed.

    DIR gets the engine's bundle in engines/, and a copy of its files in sources/. With --kubernetes it gets folders for
    kustomize instead: engine/, for the namespace of the engine's tenant, and gateway/, for the gateway's.
    """
    if kubernetes:
        spec, parts = render_folder(folder, _settings(cluster, services_image, broker))
        _write({"id": spec.id, "version": spec.version}, f"{spec.id} {spec.version}", into, parts, as_json)
        return
    if cluster or services_image or broker:
        raise typer.BadParameter("settings of a cluster belong to --kubernetes: add it, or leave them out")
    spec = deploy_engine(into / "engines", folder)
    bundle = into / "engines" / spec.id
    files = sorted(str(path.relative_to(into)) for path in bundle.rglob("*") if path.is_file())
    if as_json:
        print_json({"id": spec.id, "version": spec.version, "bundle": str(bundle), "files": files})
        return
    _say_files(f"{spec.id} {spec.version}", into, files)


def render_tenant(
    name: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.", show_default=False)],
    into: IntoOption,
    cluster: ClusterOption = None,
    services_image: ImageOption = None,
    broker: BrokerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a tenant's objects for Kubernetes, to read, edit and commit them. The tenant need not be here.

    DIR gets folders for kustomize: tenant/, with the tenant's namespace and all that bounds it, and gateway/, for the
    gateway's namespace.
    """
    parts = render_tenant_parts(Tenant(name=check_name("tenant", name)), _settings(cluster, services_image, broker))
    _write({"tenant": name}, name, into, parts, as_json)


def _settings(file: Path | None, services_image: str | None, broker: str | None) -> ClusterSettings:
    """Return the cluster's settings: those of the options, else of the file, else of the trial overlay."""
    options = {"services_image": services_image, "broker": broker}
    given = {name: value for name, value in options.items() if value is not None}
    found = read_yaml(ClusterSettings, file) if file else ClusterSettings()
    try:
        return ClusterSettings.model_validate({**found.model_dump(), **given})
    except ValidationError as error:
        raise InvalidSetting(explain(error, ClusterSettings)) from None


def _write(what: dict[str, str], name: str, into: Path, parts: list[Part], as_json: bool) -> None:
    files = write_parts(into, parts)
    apply = [f"kubectl apply -k {shlex.quote(str(into / part.name))}" for part in parts if part.files]
    if as_json:
        print_json({**what, "folder": str(into), "files": files, "next": apply})
        return
    _say_files(name, into, files)
    say("To apply it:")
    for command in apply:
        print_exactly(f"  {command}")


def _say_files(name: str, into: Path, files: list[str]) -> None:
    say(f"{name} is written to {into}:")
    for file in files:
        print_exactly(f"  {file}")
