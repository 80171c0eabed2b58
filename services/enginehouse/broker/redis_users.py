"""Users of Redis: one for the gateway, for each engine and for each tenant's own systems, with its own keys alone.

What they may send is what Dapr's components send, and no more: tests/isolation/test_broker_users.py holds both.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from enginehouse.broker import redis
from enginehouse.broker.errors import BrokerError
from enginehouse.broker.redis import RedisAddress
from enginehouse.contracts.names import (
    AUDIT_TOPIC,
    COMPLETIONS_TOPIC,
    DEAD_LETTERS_TOPIC,
    GATEWAY_USER,
    engine_user,
    finished_topic,
    job_topic,
    requests_topic,
    tenant_component,
    trial_topic,
)

PUBLISHING = ("xadd",)
READING = ("xgroup|create", "xreadgroup", "xack", "xpending", "xclaim")
KEEPING = ("eval", "hget", "hset", "hincrby", "del", "hgetall", "expire")
"""State, with the commands inside the scripts that Dapr sends: Redis checks each of them for the script's user."""
ALWAYS = ("ping", "info", "wait")
"""Without keys. `wait` is sent where Redis has replicas, since records ask for strong consistency."""
NAMING = ("client|setinfo",)
"""A client says its name with it; Redis before 7.2 does not know it."""


class UserRefused(BrokerError):
    """Redis adds no users, or not for us. `remedy` is what its operator may do instead."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Some commands on some keys. A key may be a pattern."""

    commands: Sequence[str]
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class RedisUser:
    """A user's name and what it may do."""

    name: str
    grants: Sequence[Grant]

    def rules(self, passwords: Sequence[str], *, apart: bool = True, named: bool = True) -> list[str]:
        """Return the arguments of ACL SETUSER, with the passwords as hashes. The user may log in with each of them.

        `apart`: each grant stands by itself, which Redis can do from version 7 on; otherwise the user may send all its
        commands to all its keys. `named`: with the commands that Redis knows from 7.2 on.
        """
        hashes = [f"#{hashlib.sha256(password.encode()).hexdigest()}" for password in passwords]
        common = [f"+{command}" for command in (*ALWAYS, *(NAMING if named else ()))]
        grants = [
            [*(f"+{command}" for command in grant.commands), *(f"~{key}" for key in grant.keys)]
            for grant in self.grants
        ]
        granted = (
            [f"({' '.join(grant)})" for grant in grants] if apart else [word for grant in grants for word in grant]
        )
        return [self.name, "reset", "on", *hashes, "resetchannels", "-@all", *common, *granted]


def user_of_engine(engine_id: str) -> RedisUser:
    """Return the user of an engine's sidecars: its own jobs and records; and of the house's topics, to publish alone."""
    return RedisUser(
        engine_user(engine_id),
        [
            Grant(READING, [job_topic(engine_id), trial_topic(engine_id)]),
            Grant(PUBLISHING, [COMPLETIONS_TOPIC, DEAD_LETTERS_TOPIC]),
            Grant(KEEPING, [f"{engine_id}||*"]),
        ],
    )


def user_of_gateway() -> RedisUser:
    """Return the user of the gateway's sidecar: it hands jobs over, reads what became of them, and keeps all records."""
    return RedisUser(
        GATEWAY_USER,
        [
            Grant(PUBLISHING, [job_topic("*"), finished_topic("*"), AUDIT_TOPIC]),
            Grant(READING, [COMPLETIONS_TOPIC, DEAD_LETTERS_TOPIC, requests_topic("*")]),
            Grant(KEEPING, ["*--*||*"]),
        ],
    )


def user_of_tenant(tenant: str) -> RedisUser:
    """Return the user of a tenant's own systems. Groups have no rights of their own in Redis."""
    return RedisUser(
        tenant_component(tenant),
        [Grant(PUBLISHING, [requests_topic(tenant)]), Grant(READING, [finished_topic(tenant)])],
    )


def as_user(address: RedisAddress, user: RedisUser, password: str) -> RedisAddress:
    """Return the same Redis with the user's credentials in place of the administrator's."""
    return replace(address, user=user.name, password=password)


def set_user(address: RedisAddress, user: RedisUser, passwords: Sequence[str]) -> None:
    """Add a user to a running Redis, or replace it, as narrowly as this Redis can. Connections of the user stay.

    If it refuses, a user that its operator has made does as well. Raise UserRefused if there is none that takes the
    first of the passwords, and BrokerError if Redis does not answer, or cannot do it at this moment.
    """
    said = ""
    for apart, named in ((True, True), (True, False), (False, True), (False, False)):
        said = redis.answer(address, ["ACL", "SETUSER", *user.rules(passwords, apart=apart, named=named)])
        if said == "+OK":
            redis.answer(address, ["ACL", "SAVE"])  # Refused where Redis keeps no file of users: they end with it.
            return
        if "modifier" not in said:  # Otherwise it does not know a rule.
            break
    if not re.search("NOPERM|unknown command|modifier", said, re.IGNORECASE):
        raise BrokerError(
            f"Redis does not add a user now: {said or 'no answer'}", "'enginehouse status' shows what runs."
        )
    if redis.answers(as_user(address, user, passwords[0])):
        return
    rules = " ".join(user.rules(passwords))
    # Which rules this Redis knows cannot be tried: the operator sees it.
    raise UserRefused(
        f"Redis refuses to add a user: {said.removeprefix('-')}",
        f"Let its operator type (before Redis 7.2 without +{NAMING[0]}): ACL SETUSER {rules}",
    )


def disconnect_user(address: RedisAddress, name: str) -> None:
    """End all connections of a user: they outlive the password that they were opened with. Raise BrokerError."""
    redis.commands(address, [["CLIENT", "KILL", "USER", name]])


def delete_user(address: RedisAddress, name: str) -> None:
    """Delete a user, and end its connections. Raise BrokerError."""
    redis.commands(address, [["ACL", "DELUSER", name]])
    redis.answer(address, ["ACL", "SAVE"])
