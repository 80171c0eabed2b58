"""`enginehouse cluster`: what is made on an operator's machine for Enginehouse in a Kubernetes cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from enginehouse.cli.commands import Commands
from enginehouse.cli.console import note, print_exactly, print_json
from enginehouse.cli.failures import WrongUse
from enginehouse.cli.options import JsonOption
from enginehouse.local.cluster_secrets import Broker, core_secrets

EXAMPLES = """Examples:

enginehouse cluster secrets | kubectl create -f -

enginehouse cluster secrets --ledger-url-file ledger.txt | kubectl create -f -

enginehouse cluster secrets --broker-host broker.example:6379 --broker-password-file broker.txt --ledger-url-file ledger.txt | kubectl create -f -"""

cluster = typer.Typer(cls=Commands, epilog=EXAMPLES)

_FILE = {"exists": True, "dir_okay": False, "readable": True}


@cluster.callback()
def callback() -> None:
    """Prepare a Kubernetes cluster for Enginehouse: see docs/kubernetes.md."""


@cluster.command("secrets")
def make_secrets(
    operator: Annotated[
        str, typer.Option(metavar="TENANT", help="Tenant that gets the first operator's key.")
    ] = "operators",
    broker_host: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Redis elsewhere. Default: the one of k8s/trial/.")
    ] = None,
    broker_user: Annotated[str, typer.Option(metavar="NAME", help="Its administrator.")] = "default",
    broker_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the password of the broker's administrator.", **_FILE)
    ] = None,
    ledger_url_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with postgresql://USER:PASSWORD@HOST/NAME. Default: the one of k8s/trial/.",
            **_FILE,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print new Secrets for kubectl. The operator's API key is printed beside them, only now.

    Nothing keeps them but the cluster, and volumes remember the first ones: run it once. `kubectl create` refuses a second time, which `apply` would not. Without options they are for the Redis and the PostgreSQL of k8s/trial/.
    """
    if sys.stdout.isatty():
        raise WrongUse(
            "It prints secrets, and this is a terminal: pipe it into 'kubectl create -f -'",
            "enginehouse cluster secrets",
        )
    ledger_url = ledger_url_file.read_text().strip() if ledger_url_file else None
    made = core_secrets(operator, _broker(broker_host, broker_user, broker_password_file), ledger_url)
    if as_json:
        print_json({"apiVersion": "v1", "kind": "List", "items": made.objects})
    else:
        print_exactly(yaml.safe_dump_all(made.objects, sort_keys=False).rstrip())
    note(f"The API key of the first operator, of tenant {operator}; keep it, only its hash is stored:")
    note(made.operator_key)


def _broker(host: str | None, user: str, password: Path | None) -> Broker | None:
    if host is None and password is None:
        return None
    if host is None or password is None:
        raise WrongUse(
            "--broker-host and --broker-password-file belong together: give both or none",
            "enginehouse cluster secrets",
        )
    return Broker(host, user, password.read_text().strip())
