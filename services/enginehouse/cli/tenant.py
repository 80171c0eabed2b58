"""`enginehouse tenant`: manage the tenants of this deployment, their keys, limits and webhooks."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from enginehouse.cli.acts import acting
from enginehouse.cli.commands import Lists
from enginehouse.cli.confirming import YesOption, confirm_removal
from enginehouse.cli.console import TerminalSteps, ellipsis, note, print_exactly, print_json, say
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import JsonOption
from enginehouse.cli.running import run
from enginehouse.cli.tables import Column, print_fields, print_table
from enginehouse.contracts.names import system_app
from enginehouse.contracts.tenant import Tenant
from enginehouse.local.daprd import require
from enginehouse.local.deployment import engines_of, wait_until_gone
from enginehouse.local.home import KEPT_TENANTS, Home
from enginehouse.local.tenant_systems import write_system
from enginehouse.registry.tenants import (
    add_key,
    change_tenant,
    existing_tenant,
    read_tenants,
    remove_tenant,
    revoke_key,
    rotate_webhook_secret,
)

EXAMPLES = """Examples:

enginehouse tenant add acme

enginehouse tenant list

enginehouse tenant revoke acme eh_acme_Xk3v9QwZ

enginehouse tenant limits acme --jobs-in-flight 5000

enginehouse tenant suspend acme

enginehouse tenant remove acme

enginehouse tenant webhook-secret acme

enginehouse tenant default-engine acme sentiment

enginehouse tenant system acme --into acme-system

enginehouse tenant fetch-from acme s3://acme-models/

enginehouse tenant webhook acme https://acme.example/hook

enginehouse tenant render acme --into acme-in-kubernetes"""

tenant = typer.Typer(cls=Lists, epilog=EXAMPLES)

_COLUMNS = (Column("tenant"), Column("state", worth=1), Column("key"), Column("admin"), Column("since"))

NameArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.", show_default=False)]


@tenant.callback()
def callback() -> None:
    """List tenants, make and revoke their API keys, set their limits and default engine, suspend or remove them, say where their notices go, and render their objects for Kubernetes. Without a command: list."""


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
    place = home_to_change(home)
    with acting(place, "tenant add", tenant=name) as act:
        key = add_key(place.tenants, name, admin=admin)
        act.detail = "an operator's key" if admin else "a key"
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
        state = "being removed" if one.removed else "suspended" if one.suspended else "active"
        for key in one.keys:
            is_admin, since = "yes" if key.admin else "", f"{key.created_at:%Y-%m-%d}"
            rows.append((one.name, state, f"{key.id}{ellipsis()}", is_admin, since))
        if not one.keys:
            rows.append((one.name, state, "none", "", ""))
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
    place = home_to_change(home)
    with acting(place, "tenant revoke", tenant=name) as act:
        revoked = revoke_key(place.tenants, name, key)
        act.detail = f"key {revoked.id}"
    if as_json:
        print_json({"tenant": name, "revoked": revoked.id})
    else:
        say(f"{revoked.id}{ellipsis()} of {name} is revoked.")


@tenant.command()
def limits(
    name: NameArgument,
    submits_per_second: Annotated[float | None, typer.Option(metavar="NUMBER", help="Jobs that it may submit.")] = None,
    jobs_in_flight: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Jobs that were accepted and have not ended.")
    ] = None,
    stored_bytes: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Bytes of uploads, large inputs and large outputs.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="Its share of shared engines, 0.1 to 100.")
    ] = None,
    open_requests: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Requests that one gateway answers at the same time.")
    ] = None,
    followers: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Streams of jobs' events that may be open at one gateway.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a tenant's limits, and set those that are given. They hold within a second."""
    wanted = {
        "submits_per_second": submits_per_second,
        "jobs_in_flight": jobs_in_flight,
        "stored_bytes": stored_bytes,
        "weight": weight,
        "open_requests": open_requests,
        "followers": followers,
    }
    given = {limit: value for limit, value in wanted.items() if value is not None}
    place = home_to_change(home)
    found = _change(place, "limits", name, {"limits": given}) if given else existing_tenant(place.tenants, name)
    if as_json:
        print_json({"tenant": name, "limits": found.limits.model_dump()})
    else:
        print_fields({limit: f"{value:,}" for limit, value in found.limits.model_dump().items()})


def _change(place: Home, command: str, name: str, given: dict[str, Any]) -> Tenant:
    """Change settings of a tenant. The audit log gets their names, and the values of limits only."""
    with acting(place, f"tenant {command}", tenant=name) as act:
        act.detail = ", ".join(f"{limit} {value}" for limit, value in given.get("limits", {}).items())
        return change_tenant(place.tenants, name, given)


@tenant.command()
def suspend(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Refuse a tenant's new work. What it submitted goes on, and it may read its results."""
    _set_suspended(name, home, as_json, suspended=True)


@tenant.command()
def resume(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Take a suspended tenant's work again."""
    _set_suspended(name, home, as_json, suspended=False)


def _set_suspended(name: str, home: Path | None, as_json: bool, *, suspended: bool) -> None:
    _change(home_to_change(home), "suspend" if suspended else "resume", name, {"suspended": suspended})
    if as_json:
        print_json({"tenant": name, "suspended": suspended})
    else:
        say(f"{name} is suspended: its new work is refused." if suspended else f"{name} may submit work.")


@tenant.command()
def remove(
    name: NameArgument,
    yes: YesOption = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until nothing is left of the tenant.")] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a tenant with its data, for good: its keys, jobs, results, uploads, engines, secrets and topics."""
    place = home_to_change(home)
    existing_tenant(place.tenants, name)
    question = f"Delete {name}, its engines, and all its jobs and results?"
    confirm_removal(name, question, yes=yes, as_json=as_json)
    with acting(place, "tenant remove", tenant=name):
        remove_tenant(place.tenants, name, KEPT_TENANTS)
    is_gone = wait and place.is_running()
    if is_gone:
        run(_wait_until_gone(place, name, as_json))
    if as_json:
        print_json({"tenant": name, "removed": is_gone})
    elif not is_gone:
        say(f"{name} is being removed." if place.is_running() else f"{name} is removed by the next 'enginehouse up'.")


async def _wait_until_gone(place: Home, name: str, as_json: bool) -> None:
    with TerminalSteps(quiet=as_json) as steps:
        await wait_until_gone(place, place.tenants / name, steps)
        steps.finish(name, f"{name} is removed, with all its data")


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
    _change(home_to_change(home), "webhook", name, {"webhook": url})
    if as_json:
        print_json({"tenant": name, "webhook": url})
    else:
        say(f"Notices about {name}'s engines go to {url or 'nobody'}.")


@tenant.command("fetch-from")
def fetch_from(
    name: NameArgument,
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL]...",
            help="Such as s3://acme-models/ or file:///mnt/acme/. Without one: from nowhere.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a tenant's engines fetch model files below these URLs, with the rights of whoever deploys them."""
    _change(home_to_change(home), "fetch-from", name, {"fetch_from": places or []})
    if as_json:
        print_json({"tenant": name, "fetch_from": places or []})
    else:
        say(f"{name}'s engines may fetch files from {', '.join(places) if places else 'nowhere'}.")


@tenant.command("default-engine")
def default_engine(
    name: NameArgument,
    engine: Annotated[str, typer.Argument(metavar="ENGINE", help="NAME or TENANT--NAME.", show_default=False)],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the engine of a tenant's jobs that name none. Without this it is 'standard'."""
    place = home_to_change(home)
    existing_tenant(place.tenants, name)
    engines_of(place).check_default(name, engine)
    _change(place, "default-engine", name, {"default_engine": engine})
    if as_json:
        print_json({"tenant": name, "default_engine": engine})
    else:
        say(f"Jobs of {name} that name no engine go to {engine}.")


@tenant.command("webhook-secret")
def webhook_secret(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make a new signing secret for a tenant's webhooks. It is printed only now; the previous one stays valid."""
    place = home_to_change(home)
    existing_tenant(place.tenants, name)
    with acting(place, "tenant webhook-secret", tenant=name):
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
    rotate: Annotated[
        bool,
        typer.Option(
            "--rotate", help="Give the tenant another password. Its other systems need this command again, without it."
        ),
    ] = False,
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
    with acting(place, "tenant system", tenant=name) as act:
        written = write_system(place, name, folder, system_name, rotate=rotate)
        act.detail = f"app {written.app_id}" + (", credentials rotated" if rotate else "")
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
