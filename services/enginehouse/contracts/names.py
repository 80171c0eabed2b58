"""Compute every name that parts must agree on. Tests compare the YAML with this module."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import uuid_utils

from enginehouse.contracts.errors import InvalidName

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, Slot] = ("a", "b")

PLATFORM_TENANT = "shared"
"""Owner of the engines that come with the system. A bare engine name that the caller does not own means its engine."""
DEFAULT_ENGINE = "standard"
"""Engine of a job that names none."""

GATEWAY_APP = "gateway"
GATEWAY_JOBS_COMPONENT = "jobs"
COMPLETIONS_COMPONENT = "completions"
DEAD_LETTERS_COMPONENT = "dead-letters"
AUDIT_COMPONENT = "audit"
COMPLETIONS_TOPIC = "completions"
DEAD_LETTERS_TOPIC = "dead-letters"
AUDIT_TOPIC = "audit"
JOBS_ROUTE = "/jobs"
"""Path of a runner's delivery listener: its sidecar sends job events there."""
RUNNER_ENGINE_ROUTE = "/healthz/engine"
"""Path of a runner's delivery listener that says what its engine's health checks find: 503 and a text, or 200."""
RUNNER_FIT_ROUTE = "/healthz/fit"
"""Path of a runner's health listener that says whether its version is fit to serve: 200, or 503 and the reason."""
NOBODY = "none"
"""Stands for "no app" in the scopes of a Subscription, because an empty list means every app."""

NAME_PATTERN = r"[a-z](?:-?[a-z0-9])*"
_NAME = re.compile(NAME_PATTERN)
_MIN_LENGTH, _MAX_LENGTH = 3, 24
RESERVED = frozenset(
    "admin all api card completions dead-letters default engine engines finished gateway healthz jobs "
    "localhost models none nobody public registry requests results root runner system tenant tenants worker".split()
)
_RESERVED_PREFIXES = ("kube-", "dapr", "xn-", "enginehouse")


def check_name(kind: str, name: str) -> str:
    """Return `name` if a tenant or engine may have it. Otherwise raise InvalidName with the rule."""
    check_form(kind, name)
    if name in RESERVED or name.startswith(_RESERVED_PREFIXES):
        raise InvalidName(f"{kind} {name!r} is a reserved name; choose another")
    return name


def check_form(kind: str, name: str) -> str:
    """Return `name` if it has the form of a tenant's or engine's name, perhaps a reserved one. Otherwise raise InvalidName."""
    if not (_MIN_LENGTH <= len(name) <= _MAX_LENGTH and _NAME.fullmatch(name)):
        raise InvalidName(
            f"{kind} {name[:40]!r} is not a valid name: {_MIN_LENGTH} to {_MAX_LENGTH} of a-z, 0-9 and single '-', "
            "starting with a letter, not ending in '-', without '--'"
        )
    return name


@dataclass(frozen=True, slots=True)
class EngineId:
    """Identity of an engine. Its text is `<tenant>--<engine>`. Neither part holds `--`, so it splits in one way."""

    tenant: str
    engine: str

    def __post_init__(self) -> None:
        check_name("tenant", self.tenant)
        check_name("engine", self.engine)

    def __str__(self) -> str:
        return f"{self.tenant}--{self.engine}"

    @classmethod
    def parse(cls, text: str) -> "EngineId":
        """Read `<tenant>--<engine>`. Raise InvalidName if it has another form."""
        tenant, separator, engine = text.partition("--")
        if not separator:
            raise InvalidName(f"engine id {text[:60]!r} is not of the form <tenant>--<engine>")
        return cls(tenant, engine)


def is_engine_id(text: str) -> bool:
    """Return whether `text` can be an engine's id."""
    try:
        EngineId.parse(text)
    except InvalidName:
        return False
    return True


# Every submit asks this, mostly with names that were asked before, and checking four names costs 8 µs.
@lru_cache(maxsize=4_096)
def resolve_candidates(name: str, caller_tenant: str) -> tuple[EngineId, ...]:
    """Return the engines that `name` may mean in a request of `caller_tenant`. The first one that exists is meant."""
    if "--" in name:
        return (EngineId.parse(name),)
    own = EngineId(caller_tenant, name)
    platform = EngineId(PLATFORM_TENANT, name)
    return (own,) if own == platform else (own, platform)


def app_id(engine_id: str, slot: Slot) -> str:
    """Return the Dapr app id of an engine's slot."""
    return f"{engine_id}--{slot}"


def app_ids(engine_id: str) -> list[str]:
    """Return the Dapr app ids of both slots, in slot order."""
    return [app_id(engine_id, slot) for slot in SLOTS]


_TRIAL_SUFFIX = "@trial"


def trial_of(engine_id: str) -> str:
    """Return the address of an engine's version on trial. The gateway treats it as an engine of its own."""
    return f"{engine_id}{_TRIAL_SUFFIX}"


def is_trial(address: str) -> bool:
    """Return whether an address, or the name in a request, means the version on trial."""
    return address.endswith(_TRIAL_SUFFIX)


def engine_of(address: str) -> str:
    """Return the engine in an address: of an engine id or a name, the same; of `<engine>@trial`, the part before."""
    return address.removesuffix(_TRIAL_SUFFIX)


@lru_cache(maxsize=4096)
def tenant_of(address: str) -> str:
    """Return the tenant that owns the engine in an address. Raise InvalidName if it has another form."""
    return EngineId.parse(engine_of(address)).tenant


def job_topic(address: str) -> str:
    """Return the topic that carries jobs to an engine's active slot, or to the slot on trial."""
    return trial_topic(engine_of(address)) if is_trial(address) else f"engine.{address}"


def trial_topic(engine_id: str) -> str:
    """Return the topic that carries jobs to the slot on trial, before it is promoted."""
    return f"engine.{engine_id}.trial"


def jobs_component(engine_id: str) -> str:
    """Return the pub/sub component of an engine's own sidecars."""
    return f"jobs-{engine_id}"


def results_component(address: str) -> str:
    """Return the state component of an engine. The gateway loads one of the same name, store and key prefix."""
    return f"results-{engine_of(address)}"


def secrets_component(engine_id: str) -> str:
    """Return the secret store of an engine's own sidecars."""
    return f"secrets-{engine_id}"


def engine_of_results_component(component: str) -> str | None:
    """Return the engine id in the name of a results component, or None if the name is of another kind."""
    prefix, _, rest = component.partition("-")
    if prefix != "results":
        return None
    try:
        return str(EngineId.parse(rest))
    except InvalidName:
        return None


def retired_component(engine_id: str) -> str:
    """Return the component whose presence tells the gateway that an engine is being removed."""
    return f"retired-{engine_id}"


def engine_of_retired_component(component: str) -> str | None:
    """Return the engine id in the name of such a component, or None if the name is of another kind."""
    engine_id = component.removeprefix("retired-")
    return engine_id if engine_id != component and is_engine_id(engine_id) else None


def requests_topic(tenant: str) -> str:
    """Return the topic on which a tenant's own systems publish events that become jobs."""
    return f"requests.{tenant}"


def finished_topic(tenant: str) -> str:
    """Return the topic on which a tenant's own systems receive the ends of its jobs."""
    return f"finished.{tenant}"


def requests_component(tenant: str) -> str:
    """Return the pub/sub component through which the gateway reads `requests.<tenant>`."""
    return f"requests-{tenant}"


def tenant_component(tenant: str) -> str:
    """Return the pub/sub component that a tenant's own systems use."""
    return f"tenant-{tenant}"


GATEWAY_USER = "enginehouse-gateway"
"""The broker's user for the gateway. The user of a tenant's own systems has the name of their component."""


def engine_user(engine_id: str) -> str:
    """Return the broker's user for an engine's own sidecars."""
    return f"engine-{engine_id}"


def system_app(tenant: str, system: str | None = None) -> str:
    """Return the Dapr app id of a tenant's own system. Each system beside the first has a name of its own."""
    return tenant_component(tenant) if system is None else f"{tenant_component(tenant)}--{check_name('system', system)}"


def namespace(tenant: str) -> str:
    """Return the Kubernetes namespace of a tenant."""
    return f"tenant-{tenant}"


def card_key(slot: Slot) -> str:
    """Return the state key of a slot's engine card."""
    return f"card/{slot}"


WORKERS_KEY = "workers"
"""State key of the list of an engine's workers, which leads to their heartbeats."""


CONTROL_KEY = "control"
"""State key of an engine's `Control` message."""


def worker_key(worker: str) -> str:
    """Return the state key of a worker's heartbeat."""
    return f"worker/{worker}"


JOB_ID_PATTERN = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_JOB_ID = re.compile(JOB_ID_PATTERN)


def new_job_id() -> str:
    """Return a new UUIDv7. Job ids sort by time of acceptance."""
    return str(uuid_utils.uuid7())


def made_at(job_id: str) -> float:
    """Return the moment at which an id was made, in seconds since the epoch: a UUIDv7 begins with its milliseconds."""
    return int(job_id.replace("-", "")[:12], 16) / 1000


def is_job_id(text: str) -> bool:
    """Return whether `text` can be a job id."""
    return _JOB_ID.fullmatch(text) is not None


def output_key(tenant: str, job_id: str, hand_over: int) -> str:
    """Return the key of the object for a large output. Each hand-over of a job has one of its own."""
    return f"{tenant}/outputs/{job_id}.{hand_over}.json"


def is_output_key(key: str, tenant: str, job_id: str) -> bool:
    """Return whether `key` is for an output of this job. Jobs of former versions have one key without a number."""
    return re.fullmatch(rf"{re.escape(f'{tenant}/outputs/{job_id}')}(?:\.[0-9]{{1,9}})?\.json", key) is not None
