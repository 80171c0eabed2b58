"""Deletes the data of tenants that were removed: their jobs with all that is about them, and their objects."""

import asyncio
from dataclasses import dataclass, field

import structlog
from pydantic import BaseModel, Field

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import engine_of
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import by_engine
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.records import Records
from enginehouse.gateway.tenants.tenants import Tenants

log = structlog.get_logger()

_AT_ONCE = 500


class TenantData(BaseModel):
    """What this gateway keeps of a tenant."""

    tenant: str
    removed: bool = Field(description="Whether the gateway knows that the tenant is being removed.")
    rows: int = Field(description="Rows of the ledger that are about it or its engines.")
    objects: bool = Field(
        description="Whether it may still keep objects: they were not deleted, or the last try failed."
    )


@dataclass(frozen=True, slots=True)
class RemovedTenants:
    """Deletes again at each sweep, until whoever runs the deployment deletes the tenant's bundle."""

    ledger: Ledger
    objects: Objects | None
    tenants: Tenants
    catalogue: Catalogue
    records: Records
    without_objects: set[str] = field(default_factory=set)
    """Tenants that are being removed whose objects the last sweep has deleted, also if there were none."""

    async def delete(self) -> None:
        """Take the next steps for all tenants that are being removed."""
        self.without_objects.intersection_update(self.tenants.removed)
        for tenant in sorted(self.tenants.removed):
            try:
                await self._delete(tenant)
            except EnginehouseError as error:
                log.warning(
                    f"The data of {tenant}, which is being removed, is deleted later: {error}",
                    action="tenant_data_waits",
                    tenant=tenant,
                )

    async def _delete(self, tenant: str) -> None:
        if not await self._end_jobs(tenant):
            return
        # The rows go last: they are what tells a sweep after a crash which records to empty.
        self.without_objects.discard(tenant)
        if self.objects and (deleted := await self.objects.delete_tenant(tenant)):
            log.info(f"{deleted} objects of {tenant} are deleted", action="tenant_objects_deleted", tenant=tenant)
        self.without_objects.add(tenant)
        while rows := await self.ledger.read(read.of_tenant, tenant, _AT_ONCE):
            for engine_id, ended in by_engine(rows).items():
                if self._keeps_records(engine_id, tenant):
                    await self.records.empty(engine_id, ended)
            await self.ledger.delete_jobs(tuple(row.id for row in rows))
        self.catalogue.forget_engines_of(tenant)
        if await self.ledger.read(read.rows_of_tenant, tenant):
            await self.ledger.delete_tenant(tenant)

    def _keeps_records(self, engine_id: str, tenant: str) -> bool:
        """Say whether records stay behind in an engine's store. Those of the tenant's own engines go with their stores."""
        engine = self.catalogue.get(engine_of(engine_id))  # A version on trial writes into its engine's store.
        return engine is not None and engine.tenant != tenant and engine.state != EngineState.RETIRED

    async def _end_jobs(self, tenant: str) -> bool:
        """Cancel the jobs that have not ended; return whether all have."""
        tried = set[str]()
        while rows := await self.ledger.read(read.unfinished_of_tenant, tenant, _AT_ONCE):
            if tried.issuperset(row.id for row in rows):
                return False
            tried.update(row.id for row in rows)
            reached = [row for row in rows if self.catalogue.can_reach(row.engine)]
            await asyncio.gather(*(self.records.decide(row, decisions.tenant_removed) for row in reached))
        return True

    async def left(self, tenant: str) -> TenantData:
        """Return what is left of a tenant."""
        rows = await self.ledger.read(read.rows_of_tenant, tenant)
        objects = self.objects is not None and tenant not in self.without_objects
        return TenantData(tenant=tenant, removed=tenant in self.tenants.removed, rows=rows, objects=objects)
