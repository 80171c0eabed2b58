"""Give the gateway and each engine the credentials of their own user of the broker, and keep these users there."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from enginehouse.broker import redis
from enginehouse.broker.errors import BrokerError
from enginehouse.broker.passwords import Passwords, new_password
from enginehouse.broker.redis import RedisAddress
from enginehouse.broker.redis_users import (
    RedisUser,
    UserRefused,
    as_user,
    delete_user,
    disconnect_user,
    set_user,
    user_of_tenant,
)

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0


@dataclass(slots=True)
class BrokerUsers:
    """The users of one deployment."""

    passwords: Passwords
    address: RedisAddress
    """With the administrator's password, which nobody but this process gets."""
    tenants: Callable[[], Iterable[str]]
    """Returns the tenants, of which some have systems of their own with a user."""
    shares_administrator: bool = True
    """Whether sidecars get the administrator's password from a Redis that adds no users."""
    _refused: dict[str, UserRefused] = field(default_factory=dict)
    """By user: why its sidecars have the administrator's password all the same."""
    _wanted: dict[str, RedisUser] = field(default_factory=dict)
    _missing: set[str] = field(default_factory=set)
    """Users that Redis could not be given yet."""
    _revoked: set[str] = field(default_factory=set)
    """Users that get no credentials until they are readmitted."""
    _not_gone: set[str] = field(default_factory=set)
    """Those of them that Redis has not deleted yet."""
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Give Redis the users of the tenants' own systems again, and forget passwords that were to be replaced.

        No sidecar runs yet that could have them.
        """
        with self._busy:
            self.passwords.forget_former()
            if redis.answers(self.address):
                for user in self._tenants():
                    with contextlib.suppress(UserRefused):
                        self._make(user)
            else:
                self._missing.update(user.name for user in self._tenants())

    def login(self, user: RedisUser) -> RedisAddress:
        """Return the credentials of a user that exists from now on. Raise BrokerError while it is revoked.

        Of a Redis that adds no users these are the administrator's, and `problem` says so; where the administrator's are
        not shared, raise UserRefused. One that does not answer is given the user as soon as it does.
        """
        with self._busy:
            self._check_admitted(user)
            if user.name in self._not_gone:
                self._delete(user.name)
            try:
                self._make(user)
            except UserRefused as refused:
                if not self.shares_administrator:
                    raise
                self._refused[user.name] = refused
                log.warning(f"{user.name}: {refused}", action="broker_user_refused")
                return self.address
            self._refused.pop(user.name, None)
            self._wanted[user.name] = user
            return self._own(user)

    @property
    def problem(self) -> str | None:
        """Say which sidecars have the administrator's password, or which users are still there; None if all is well."""
        said = [self._too_much(dict(self._refused)), self._too_long(sorted(self._not_gone))]
        return "\n".join(text for text in said if text) or None

    @staticmethod
    def _too_long(not_gone: Sequence[str]) -> str | None:
        if not not_gone:
            return None
        names = " ".join(not_gone)
        return (
            f"Redis has not deleted these users, whose engines are quarantined: {', '.join(not_gone)}. It is tried again.\n"
            f"If its operator must do it: ACL DELUSER {names}"
        )

    @staticmethod
    def _too_much(refused: Mapping[str, UserRefused]) -> str | None:
        if not refused:
            return None
        reasons = sorted({error.detail for error in refused.values()})
        remedies = [error.remedy for _, error in sorted(refused.items())]
        return "\n".join(
            [
                "Redis has one password, the key to all data, and these sidecars hold it, for want of users of their own: "
                f"{', '.join(sorted(refused))}.",
                *reasons,
                "Allow the user of REDIS_URL ACL SETUSER, or add the users by hand; then start again.",
                *remedies,
            ]
        )

    def _own(self, user: RedisUser) -> RedisAddress:
        return as_user(self.address, user, self.passwords.of(user.name))

    def _make(self, user: RedisUser) -> None:
        try:
            set_user(self.address, user, self.passwords.all_of(user.name))
            self._missing.discard(user.name)
        except UserRefused:
            raise
        except BrokerError as away:
            self._missing.add(user.name)
            log.warning(f"The user {user.name} is made later: {away}", action="broker_user_missing")

    def _tenants(self) -> list[RedisUser]:
        """Return the users of those tenants whose own systems have one."""
        users = [user_of_tenant(tenant) for tenant in self.tenants()]
        return [user for user in users if self.passwords.file(user.name).exists()]

    def begin_rotation(self, user: RedisUser) -> None:
        """Give a user another password, which `login` returns from now on, and let it use the one before as well.

        Raise BrokerError if Redis does not answer, or does not change users.
        """
        with self._busy:
            self._check_admitted(user)
            passwords = [new_password(), self.passwords.of(user.name)]
            try:
                set_user(self.address, user, passwords)
            except UserRefused as refused:
                # The operator cannot do this one: nothing keeps the new password.
                remedy = "Let its operator allow the user of REDIS_URL ACL SETUSER."
                raise BrokerError(refused.detail.replace("add a user", "change one"), remedy) from None
            self.passwords.set(user.name, passwords)

    def end_rotation(self, user: RedisUser) -> None:
        """Take back the former password, and end all connections: some may have been opened with it.

        Raise BrokerError, also of a user that was revoked since the rotation began: it stays deleted.
        """
        with self._busy:
            self._check_admitted(user)
            password = self.passwords.of(user.name)
            set_user(self.address, user, [password])
            self.passwords.set(user.name, [password])
            disconnect_user(self.address, user.name)

    def revoke(self, name: str) -> None:
        """Delete a user and its password, and end its connections. It gets no other credentials until `readmit`.

        If Redis does not answer, it is done as soon as it does.
        """
        with self._busy:
            self._revoked.add(name)
            self._wanted.pop(name, None)
            self._missing.discard(name)
            self.passwords.forget(name)
            if self._refused.pop(name, None) is None:
                self._delete(name)

    def _delete(self, name: str) -> None:
        try:
            delete_user(self.address, name)
            self._not_gone.discard(name)
            if name in self._wanted:
                self._missing.add(name)
        except BrokerError as error:
            if name not in self._not_gone:
                log.error(f"The user {name} is deleted later: {error}", action="broker_user_not_gone")
            self._not_gone.add(name)

    def readmit(self, name: str) -> None:
        """Let `login` give a revoked user credentials again, with another password."""
        self._revoked.discard(name)

    def _check_admitted(self, user: RedisUser) -> None:
        if user.name in self._revoked:
            raise BrokerError(
                f"{user.name} gets no credentials: its engine is quarantined.", "'enginehouse engines resume' ends it."
            )

    def forget(self, name: str) -> None:
        """Delete a user, if there is one, and its password. Raise BrokerError."""
        file = self.passwords.file(name)
        with self._busy:
            self._wanted.pop(name, None)
            self._refused.pop(name, None)
            self._missing.discard(name)
            if file.exists():
                if redis.answers(replace(self.address, user=name, password=self.passwords.of(name))):
                    delete_user(self.address, name)
                file.unlink()

    async def keep(self) -> None:
        """Look again and again, for ever: a Redis that keeps no file of its users forgets them as it restarts."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Give Redis the users that it lacks, if it answers."""
        with self._busy:
            for name in sorted(self._not_gone):
                self._delete(name)
            first = next((user for user in self._wanted.values() if user.name not in self._missing), None)
            is_complete = first is None or redis.answers(self._own(first))
            if (is_complete and not self._missing) or not redis.answers(self.address):
                return
            for user in [*self._wanted.values(), *self._tenants()]:
                if not is_complete or user.name in self._missing:
                    self._make_late(user)

    def _make_late(self, user: RedisUser) -> None:
        try:
            self._make(user)
        except UserRefused as refused:
            self._missing.discard(user.name)
            said = f"{user.name} has been given a password of its own, with which it cannot log in. {refused.detail}"
            self._refused[user.name] = UserRefused(said, refused.remedy)
            log.error(said, action="broker_user_refused")
