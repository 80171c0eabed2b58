"""Wires the deployer from the registry's settings."""

import asyncio
from functools import partial
from pathlib import Path

import structlog

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.broker.passwords import Passwords
from enginehouse.broker.redis import RedisAddress
from enginehouse.broker.redis_users import user_of_gateway
from enginehouse.broker.users import BrokerUsers
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import GATEWAY_USER
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.contracts.tenant import ApiKey, Tenant
from enginehouse.registry.bundle import render_tenant, write_bundle
from enginehouse.registry.deployer.api import Cluster
from enginehouse.registry.deployer.bring import Bringing
from enginehouse.registry.deployer.context import Context, read_cluster_settings
from enginehouse.registry.deployer.credentials import Credentials
from enginehouse.registry.deployer.deployer import Deployer
from enginehouse.registry.deployer.gateway import Gateway
from enginehouse.registry.deployer.gateway_files import GatewayFiles
from enginehouse.registry.deployer.inventory import Inventory
from enginehouse.registry.deployer.quarantines import Quarantines
from enginehouse.registry.deployer.removals import Removals
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.settings import RegistrySettings
from enginehouse.registry.tenants import read_tenant, tenant_names
from enginehouse.supply.decide import Supply

log = structlog.get_logger(__name__)


def keep_deployer(settings: RegistrySettings, audit: AuditLog, background: Background) -> Deployer:
    """Run the deployer of a registry in the background, and start it anew should it fail."""
    deployer = make_deployer(settings, audit, background)
    background.keep("deployer", partial(_run, settings, deployer))
    return deployer


async def _run(settings: RegistrySettings, deployer: Deployer) -> None:
    context = deployer.context
    try:
        await asyncio.to_thread(add_first_operator, settings)
        await asyncio.to_thread(context.gateway.make_key)
        if settings.gateway_broker_password:
            await asyncio.to_thread(_make_gateways_user, context.users)
        deployer.reset()
        await deployer.run()
    except Exception as error:
        deployer.note_trouble("deployer", error)
        raise


def make_deployer(settings: RegistrySettings, audit: AuditLog, background: Background) -> Deployer:
    """Wire a deployer. Raise InvalidBundle if the file about the cluster is wrong."""
    assert settings.state_file
    assert settings.proof_key
    cluster_settings = read_cluster_settings(settings.cluster_file)
    core = cluster_settings.core_namespace
    # Beside the state file lies what must survive a restart and nobody else reads.
    kept, cluster = settings.state_file.parent, Cluster()
    kept.mkdir(parents=True, exist_ok=True)
    home = settings.engines_dir.parent
    inventory = Inventory(cluster, core, lambda tenant, engine: deployer.note_object(tenant, engine))
    users = _broker_users(settings, cluster_settings, kept)
    context = Context(
        engines=settings.engines_dir,
        tenants=settings.tenants_dir,
        webhook_secrets=settings.webhook_secrets_dir,
        settings=cluster_settings,
        bringing=Bringing(cluster, inventory),
        users=users,
        credentials=Credentials(home, kept, ProofKeys(settings.proof_key.get_secret_value()), users),
        gateway=Gateway(
            settings.gateway_url or f"http://gateway.{core}.svc.cluster.local:8080",
            settings.tenants_dir,
            settings.operator,
            kept / "operator-key.secret",
        ),
        supply=Supply(settings.supply_dir),
        audit=audit,
        background=background,
    )
    gateway_files = GatewayFiles(context, lambda: deployer.note_engines(()))
    deployer = Deployer(
        context=context,
        inventory=inventory,
        quarantines=Quarantines(context, kept / "quarantined.json", lambda engines: deployer.note_engines(engines)),
        removals=Removals(
            context,
            {*settings.kept_tenants, settings.operator},
            lambda engine: deployer.engines.get(engine),
            lambda: deployer.note_engines(()),
            gateway_files,
        ),
        gateway_files=gateway_files,
        state_file=settings.state_file,
        secrets=home / "secrets",
    )
    return deployer


def _broker_users(settings: RegistrySettings, cluster: ClusterSettings, kept: Path) -> BrokerUsers:
    assert settings.broker_password
    host, _, port = (settings.broker_host or cluster.broker).rpartition(":")
    address = RedisAddress(host, int(port), settings.broker_password.get_secret_value(), settings.broker_username)
    passwords = Passwords(kept)
    if settings.gateway_broker_password:
        passwords.set(GATEWAY_USER, [settings.gateway_broker_password.get_secret_value()])
    # A sidecar of an engine never gets the administrator's password: such an engine does not start, and says why.
    return BrokerUsers(passwords, address, partial(tenant_names, settings.tenants_dir), shares_administrator=False)


def _make_gateways_user(users: BrokerUsers) -> None:
    try:
        users.login(user_of_gateway())
    except EnginehouseError as error:
        log.error(f"The gateway's user of the broker is not made: {error}", action="gateway_user_not_made")


def add_first_operator(settings: RegistrySettings) -> bool:
    """Make the operators' tenant if there is none yet, with the key whose hash the settings give. Return whether it is new."""
    folder, name = settings.tenants_dir, settings.operator
    folder.mkdir(parents=True, exist_ok=True)
    if read_tenant(folder, name) is not None:
        return False
    keys = []
    if settings.operator_key_sha256:
        keys.append(ApiKey(id=f"eh_{name}_first", sha256=settings.operator_key_sha256, admin=True, created_at=now()))
    write_bundle(folder / name, render_tenant(Tenant(name=name, keys=keys)))
    log.info(f"The operators' tenant is {name}", action="operators_made", tenant=name)
    return True
