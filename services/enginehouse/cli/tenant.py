"""`enginehouse tenant`: manage the tenants of this deployment, their keys and their webhooks."""

from typing import Annotated

import typer
from rich.table import Table

from enginehouse.cli.connection import exit_on_error, print_table
from enginehouse.cli.console import err, out
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.jobs import JsonOption, print_json
from enginehouse.registry.deploy import add_key
from enginehouse.registry.tenants import (
    existing_tenant,
    read_tenants,
    revoke_key,
    rotate_webhook_secret,
    set_webhook,
)

EXAMPLES = """Examples:

enginehouse tenant add acme

enginehouse tenant list

enginehouse tenant revoke acme eh_acme_Xk3v9QwZ

enginehouse tenant webhook-secret acme

enginehouse tenant webhook acme https://acme.example/hook"""

tenant = typer.Typer(help="Tenants and their API keys.", no_args_is_help=True, epilog=EXAMPLES)

NameArgument = Annotated[str, typer.Argument(help="The tenant's name.", show_default=False)]


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
    with exit_on_error():
        key = add_key(home_to_change(home).tenants, name, admin=admin)
    if as_json:
        print_json({"tenant": name, "api_key": key})
    else:
        typer.echo(key)
        err.print("Keep it: only its hash is stored. It works within a second.", style="dim")


@tenant.command("list")
def list_tenants(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the tenants and the first characters of their keys."""
    with exit_on_error():
        found = read_tenants(home_to_change(home).tenants)
    if as_json:
        print_json([one.model_dump(mode="json", exclude={"keys": {"__all__": {"sha256"}}}) for one in found])
        return
    table = Table("tenant", "key", "admin", "since", box=None)
    for one in found:
        for key in one.keys:
            table.add_row(one.name, f"{key.id}…", "yes" if key.admin else "", f"{key.created_at:%Y-%m-%d}")
        if not one.keys:
            table.add_row(one.name, "none", "", "")
    print_table(table) if found else out.print("No tenants.")


@tenant.command()
def revoke(
    name: NameArgument,
    key: Annotated[str, typer.Argument(help="The key, or its first characters as listed.", show_default=False)],
    home: HomeOption = None,
) -> None:
    """Revoke a key. Requests with it are refused within a second; jobs submitted with it continue."""
    with exit_on_error():
        revoked = revoke_key(home_to_change(home).tenants, name, key)
    out.print(f"{revoked.id}… of {name} is revoked.")


@tenant.command()
def webhook(
    name: NameArgument,
    url: Annotated[
        str | None, typer.Argument(help="URL for the notices. Without it none are sent.", show_default=False)
    ] = None,
    home: HomeOption = None,
) -> None:
    """Send a signed webhook when an engine of the tenant is paused, quarantined or active again.

    Without URL: stop that.
    """
    with exit_on_error():
        set_webhook(home_to_change(home).tenants, name, url)
    out.print(f"Notices about {name}'s engines go to {url or 'nobody'}.", soft_wrap=True)


@tenant.command("webhook-secret")
def webhook_secret(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make a new signing secret for a tenant's webhooks. It is printed only now; the previous one stays valid."""
    with exit_on_error():
        place = home_to_change(home)
        existing_tenant(place.tenants, name)
        secret = rotate_webhook_secret(place.webhook_secrets, name)
    if as_json:
        print_json({"tenant": name, "webhook_secret": secret})
    else:
        typer.echo(secret)
