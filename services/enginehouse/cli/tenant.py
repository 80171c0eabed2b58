"""`enginehouse tenant`: manage the tenants of this deployment, their keys and their webhooks."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from enginehouse.cli.commands import Lists
from enginehouse.cli.console import ellipsis, note, print_exactly, print_json, say
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import JsonOption
from enginehouse.cli.tables import Column, print_table
from enginehouse.contracts.names import system_app
from enginehouse.local.daprd import require
from enginehouse.local.tenant_systems import write_system
from enginehouse.registry.deploy import add_key
from enginehouse.registry.tenants import (
    existing_tenant,
    read_tenants,
    revoke_key,
    rotate_webhook_secret,
    set_default_engine,
    set_webhook,
)

EXAMPLES = """Examples:

enginehouse tenant add acme

enginehouse tenant list

enginehouse tenant revoke acme eh_acme_Xk3v9QwZ

enginehouse tenant webhook-secret acme

enginehouse tenant default-engine acme sentiment

enginehouse tenant system acme --into acme-system

enginehouse tenant webhook acme https://acme.example/hook"""

tenant = typer.Typer(cls=Lists, epilog=EXAMPLES)

_COLUMNS = (Column("tenant"), Column("key"), Column("admin"), Column("since"))

NameArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.", show_default=False)]


@tenant.callback()
def callback() -> None:
    """List tenants, make and revoke their API keys, and set their default engine and webhook. Without a command: list."""


@tenant.command()
def add(
    name: NameArgument,
    admin: Annotated[
        bool, typer.Option("--admin", help="Make a key that may register and quarantine engines.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key for a tenant, and the tenant if it is new. The key is printed only now."""
    key = add_key(home_to_change(home).tenants, name, admin=admin)
    if as_json:
        print_json({"tenant": name, "api_key": key})
    else:
        print_exactly(key)
        note("Keep it: only its hash is stored. It works within a second.")


@tenant.command("list")
def list_tenants(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the tenants and the first characters of their keys."""
    found = read_tenants(home_to_change(home).tenants)
    if as_json:
        print_json([one.model_dump(mode="json", exclude={"keys": {"__all__": {"sha256"}}}) for one in found])
        return
    rows = []
    for one in found:
        for key in one.keys:
            rows.append((one.name, f"{key.id}{ellipsis()}", "yes" if key.admin else "", f"{key.created_at:%Y-%m-%d}"))
        if not one.keys:
            rows.append((one.name, "none", "", ""))
    print_table(_COLUMNS, rows) if rows else say("No tenants.")


@tenant.command()
def revoke(
    name: NameArgument,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The key, or its first characters as listed.", show_default=False)
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key. Requests with it are refused within a second; jobs submitted with it continue."""
    revoked = revoke_key(home_to_change(home).tenants, name, key)
    if as_json:
        print_json({"tenant": name, "revoked": revoked.id})
    else:
        say(f"{revoked.id}{ellipsis()} of {name} is revoked.")


@tenant.command()
def webhook(
    name: NameArgument,
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="URL for the notices. Without it none are sent.", show_default=False),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a signed webhook when an engine of the tenant is paused, quarantined or active again.

    Without URL: stop that.
    """
    set_webhook(home_to_change(home).tenants, name, url)
    if as_json:
        print_json({"tenant": name, "webhook": url})
    else:
        say(f"Notices about {name}'s engines go to {url or 'nobody'}.")


@tenant.command("default-engine")
def default_engine(
    name: NameArgument,
    engine: Annotated[str, typer.Argument(metavar="ENGINE", help="NAME or TENANT--NAME.", show_default=False)],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the engine of a tenant's jobs that name none. Without this it is 'standard'."""
    set_default_engine(home_to_change(home).tenants, name, engine)
    if as_json:
        print_json({"tenant": name, "default_engine": engine})
    else:
        say(f"Jobs of {name} that name no engine go to {engine}.")


@tenant.command("webhook-secret")
def webhook_secret(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make a new signing secret for a tenant's webhooks. It is printed only now; the previous one stays valid."""
    place = home_to_change(home)
    existing_tenant(place.tenants, name)
    secret = rotate_webhook_secret(place.webhook_secrets, name)
    if as_json:
        print_json({"tenant": name, "webhook_secret": secret})
    else:
        print_exactly(secret)


@tenant.command()
def system(
    name: NameArgument,
    system_name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of a system beside the first. Each gets every answer."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where to write. Default: a folder named after the app id.", show_default=False
        ),
    ] = None,
    app_port: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, max=65_535, help="Port on which the app listens.")
    ] = 8100,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a tenant's own system needs beside this deployment, and print the commands that start its sidecar.

    The system publishes on requests.TENANT and hears finished.TENANT. It gets a user of the broker that reaches these
    two and nothing else; its password is in the folder, for its owner only. The deployment must be running. After its
    Redis got another port, run this again.
    """
    place = home_to_change(home)
    folder = (into or Path(system_app(name, system_name))).expanduser().resolve()
    written = write_system(place, name, folder, system_name)
    with_cli, alone = (
        shlex.join(command) for command in (written.dapr_run(app_port), written.daprd(require(), app_port))
    )
    if as_json:
        print_json(
            {
                "tenant": name,
                "app_id": written.app_id,
                "resources": str(written.resources),
                "dapr_run": with_cli,
                "daprd": alone,
            }
        )
        return
    note(f"Written to {folder}. With Dapr's CLI, and your program at the end:")
    print_exactly(f"{with_cli} python app.py")
    note("Or the sidecar alone, beside your program:")
    print_exactly(alone)
