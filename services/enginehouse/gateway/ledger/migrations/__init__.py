"""The ledger's migrations. `migrate.py` beside this folder applies them.

The ledger says by which migration it was changed last, and which one a gateway must know at least to work with it
(`alembic_version.oldest`). So a gateway of the release before starts, and goes on, beside one of the next release, as long
as the migrations between them only add things.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from enginehouse.contracts.errors import UnsafeSettings


def newest() -> str:
    """Return the newest migration's revision, with which its file's name begins."""
    return max(path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"))


def are_missing(connection: Connection) -> bool:
    """Say whether migrations must be applied before this release can use the ledger.

    Raise UnsafeSettings if a newer release has changed it in a way with which this one cannot work.
    """
    if not inspect(connection).has_table("alembic_version"):
        return True
    applied, ours = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "", newest()
    if applied <= ours:
        return bool(applied < ours)
    oldest = connection.execute(text("SELECT oldest FROM alembic_version")).scalar()
    if oldest is None or oldest > ours:
        raise UnsafeSettings(
            f"ENGINEHOUSE_GATEWAY_LEDGER_URL: a newer release has changed the ledger (migration {applied}), and this one "
            f"(migration {ours}) cannot work with it: start the newer release, or restore the backup from before"
        )
    return False
