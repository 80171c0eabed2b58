"""The ledger's migrations. `migrate.py` beside this folder applies them."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text


def newest() -> str:
    """Return the newest migration's revision, with which its file's name begins."""
    return max(path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"))


def are_applied(connection: Connection) -> bool:
    """Say whether the tables are as the newest migration leaves them."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest()
