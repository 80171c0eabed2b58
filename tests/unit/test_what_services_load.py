"""A process loads no large package that it does not need: each costs its memory in every process of its kind."""

import subprocess
import sys

import pytest

_NEEDS = {
    "enginehouse.gateway.serve": ["sqlalchemy", "fastapi", "grpc"],
    "enginehouse.gateway.ledger.postgres": ["asyncpg"],
    "enginehouse.runner.serve": ["aiohttp", "yaml"],
    "enginehouse.registry.serve": ["fastapi"],
    "enginehouse.cli.app": ["typer", "rich"],
    "enginehouse.engine.__main__": ["uvicorn"],
}
_NEEDS_NOT = {
    "enginehouse.gateway.serve": [
        "alembic",
        "asyncpg",
        "cryptography",
        "mako",
        "sqlalchemy.dialects.postgresql",
        "sqlalchemy.orm",
    ],
    "enginehouse.gateway.ledger.postgres": ["alembic", "sqlalchemy.ext.asyncio", "sqlalchemy.orm"],
    "enginehouse.runner.serve": [
        "cryptography",
        "fastapi",
        "google.protobuf",
        "grpc",
        "jmespath",
        "obstore",
        "sqlalchemy",
    ],
    "enginehouse.registry.serve": ["cryptography", "grpc", "jsonschema_rs", "obstore", "sqlalchemy"],
    "enginehouse.cli.app": ["cryptography", "fastapi", "grpc", "jsonschema_rs", "obstore", "sqlalchemy", "uvicorn"],
    "enginehouse.engine.__main__": ["aiohttp", "grpc", "httpx2", "numpy", "sqlalchemy", "structlog", "yaml"],
}


@pytest.mark.parametrize("module", sorted(_NEEDS_NOT))
def test_a_process_loads_no_large_package_that_it_does_not_need(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert loaded >= set(_NEEDS[module])
    assert loaded.isdisjoint(_NEEDS_NOT[module])
