"""Makes the Secrets of an engine, whose values are kept in private files beside the bundles."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginehouse.broker.redis_users import user_of_engine
from enginehouse.broker.users import BrokerUsers
from enginehouse.contracts.names import namespace, tenant_of
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.homes import read_json
from enginehouse.private_files import write_private
from enginehouse.registry.deployer.kinds import SECRET, Ref
from enginehouse.registry.deployer.wanted import Hashes
from enginehouse.registry.kubernetes.engine_workload import secrets_name
from enginehouse.registry.kubernetes.labels import engine_labels, thing
from enginehouse.registry.kubernetes.parts import Object
from enginehouse.registry.kubernetes.runner_workload import api_token, app_token
from enginehouse.registry.secrets import secrets_file


@dataclass(frozen=True, slots=True)
class EngineSecrets:
    """The Secrets of an engine, and the hashes of what its pods read of them."""

    objects: list[Object]
    hashes: Hashes
    own: frozenset[str]
    """Names of the engine's own secrets that have a value."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Makes and keeps what only an engine and those who serve it know."""

    home: Path
    folder: Path
    """Of the private files with tokens."""
    proof_keys: ProofKeys
    users: BrokerUsers

    def secrets_of(self, engine: str) -> EngineSecrets:
        """Return the Secrets of an engine, which has a user of the broker from now on. Raise BrokerError."""
        login = self.users.login(user_of_engine(engine))
        tokens = self._tokens(engine)
        runner = {
            engine: {
                "proof-key": self.proof_keys.of(engine),
                "redis-username": login.user,
                "redis-password": login.password,
            },
            api_token(engine): {"token": tokens["api"]},
            app_token(engine): {"token": tokens["app"]},
        }
        own = read_json(secrets_file(self.home, engine))
        contents = {**runner, secrets_name(engine): own}
        objects = [_secret(engine, name, content) for name, content in contents.items()]
        hashes = Hashes(self._hash(engine, runner), self._hash(engine, {"": own}) if own else "")
        return EngineSecrets(objects, hashes, frozenset(own))

    def _hash(self, engine: str, contents: Mapping[str, Mapping[str, str]]) -> str:
        """Return a hash that pods may show: without the key nobody can try which values it is of."""
        key = self.proof_keys.of(engine).encode()
        return hmac.new(key, json.dumps(contents, sort_keys=True).encode(), hashlib.sha256).hexdigest()[:32]

    def forget(self, engine: str) -> None:
        """Delete the tokens of an engine."""
        self._file(engine).unlink(missing_ok=True)

    def _file(self, engine: str) -> Path:
        return self.folder / f"tokens-{engine}.json"

    def _tokens(self, engine: str) -> dict[str, str]:
        found = read_json(self._file(engine))
        if not found:
            found = {kind: secrets.token_urlsafe(32) for kind in ("api", "app")}
            write_private(self._file(engine), json.dumps(found))
        return found


def secret_refs(engine: str) -> list[Ref]:
    """Return the Secrets of an engine."""
    place = namespace(tenant_of(engine))
    names = (engine, api_token(engine), app_token(engine), secrets_name(engine))
    return [Ref(SECRET, place, name) for name in names]


def _secret(engine: str, name: str, content: Mapping[str, str]) -> Object:
    # Not as `stringData`, of which server-side apply does not know what is no longer wanted.
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    made = thing("v1", "Secret", name, engine_labels(engine), type="Opaque", data=encoded)
    made["metadata"]["namespace"] = namespace(tenant_of(engine))
    return made
