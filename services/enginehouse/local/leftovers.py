"""Deletes what processes that are gone have left in a home: their logs and their folders in `run`."""

import shutil

from enginehouse.local.configurations import forget_app
from enginehouse.local.home import Home


def delete_of_app(home: Home, app_id: str) -> None:
    """Delete the logs, the exchanged files and the engine's home folders of a slot whose processes have ended."""
    # An app id holds no character that a pattern gives a meaning to; the dot ends it.
    for log in home.logs.glob(f"{app_id}.*.log"):
        log.unlink(missing_ok=True)
    for folder in (home.exchange / app_id, *(home.run / "engines").glob(f"{app_id}.*")):
        shutil.rmtree(folder, ignore_errors=True)
    forget_app(home.run, app_id)
    for draft in home.run.glob(f"{app_id}.*"):
        draft.unlink(missing_ok=True)


def delete_objects(home: Home, tenant: str) -> None:
    """Delete the folders that a tenant's objects were in; the gateway has deleted the objects."""
    shutil.rmtree(home.objects / tenant, ignore_errors=True)
