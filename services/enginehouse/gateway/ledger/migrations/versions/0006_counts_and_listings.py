"""Keep counts of the jobs that wait or are handed over, and index what is listed: their cost no longer grows with the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NO_JOBS = "job_id IS NULL"
_OF_NO_JOB = "(channel = 'event' OR job_id = '')"

_COUNT_SQLITE = """
INSERT INTO job_counts (engine, tenant, shard, waiting, handed_over) VALUES ({engine}, {tenant}, 0, {waiting}, {handed_over})
ON CONFLICT (engine, tenant, shard) DO UPDATE SET waiting = waiting + excluded.waiting, handed_over = handed_over + excluded.handed_over;
"""
_UNFINISHED = "{row}.status IN ('queued', 'running')"
_WAITS = "({row}.status = 'queued' AND {row}.handed_over_at IS NULL)"
_HANDED_OVER = "({row}.handed_over_at IS NOT NULL)"


def _counted(row: str, sign: str) -> str:
    return _COUNT_SQLITE.format(
        engine=f"{row}.engine",
        tenant=f"{row}.tenant",
        waiting=sign + _WAITS.format(row=row),
        handed_over=sign + _HANDED_OVER.format(row=row),
    )


def _changed(of: str) -> str:
    return f"{of.format(row='new')} - {of.format(row='old')}"


_COUNT_MOVED = _COUNT_SQLITE.format(
    engine="new.engine", tenant="new.tenant", waiting=_changed(_WAITS), handed_over=_changed(_HANDED_OVER)
)
_DIFFERS = " OR ".join(f"{of.format(row='new')} <> {of.format(row='old')}" for of in (_WAITS, _HANDED_OVER))
_TRIGGERS_SQLITE = {
    "count_accepted": f"AFTER INSERT ON jobs WHEN {_UNFINISHED.format(row='new')} BEGIN {_counted('new', '')} END",
    "count_moved": (
        f"AFTER UPDATE OF status, handed_over_at ON jobs WHEN new.engine = old.engine AND ({_DIFFERS}) "
        f"BEGIN {_COUNT_MOVED} END"
    ),
    "count_addressed": (
        "AFTER UPDATE OF engine ON jobs WHEN new.engine <> old.engine "
        f"BEGIN {_counted('old', '-')} {_counted('new', '')} END"
    ),
    "count_deleted": f"AFTER DELETE ON jobs WHEN {_UNFINISHED.format(row='old')} BEGIN {_counted('old', '-')} END",
}

# Each connection counts in rows of its own (`shard`), so that transactions never wait for each other's counts.
_COUNT_POSTGRES = """
CREATE OR REPLACE FUNCTION count_job(engine text, tenant text, waiting int, handed_over int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO job_counts AS c (engine, tenant, shard, waiting, handed_over)
    VALUES ($1, $2, pg_backend_pid(), $3, $4)
    ON CONFLICT ON CONSTRAINT job_counts_pkey
    DO UPDATE SET waiting = c.waiting + excluded.waiting, handed_over = c.handed_over + excluded.handed_over
$$
"""
_FUNCTION_POSTGRES = f"""
CREATE OR REPLACE FUNCTION count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND old.engine = new.engine THEN
        PERFORM count_job(new.engine, new.tenant, {_WAITS.format(row="new")}::int - {_WAITS.format(row="old")}::int,
            {_HANDED_OVER.format(row="new")}::int - {_HANDED_OVER.format(row="old")}::int);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM count_job(old.engine, old.tenant, -{_WAITS.format(row="old")}::int, -{_HANDED_OVER.format(row="old")}::int);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM count_job(new.engine, new.tenant, {_WAITS.format(row="new")}::int, {_HANDED_OVER.format(row="new")}::int);
    END IF;
    RETURN NULL;
END $$
"""
_TRIGGERS_POSTGRES = {
    "count_accepted": f"AFTER INSERT ON jobs FOR EACH ROW WHEN ({_UNFINISHED.format(row='new')})",
    "count_moved": (
        "AFTER UPDATE OF engine, status, handed_over_at ON jobs FOR EACH ROW "
        f"WHEN (new.engine <> old.engine OR {_DIFFERS})"
    ),
    "count_deleted": f"AFTER DELETE ON jobs FOR EACH ROW WHEN ({_UNFINISHED.format(row='old')})",
}


_SHAPES_SQLITE = {
    "sqlite_autoindex_jobs_1": "10000000 1",
    "ix_jobs_status": "10000000 100000 20000 1",
    "ix_jobs_engine": "10000000 10000 1000 200 1",
    "ix_jobs_backlog": "100000 100 10 5 1",
    "ix_jobs_handed_over": "10000 10 5",
    "ix_jobs_queue_deadline": "100000 1",
    "ix_jobs_retention": "10000000 5000000 1",
}
"""What a large ledger looks like to SQLite's planner: rows of an index, and rows for each value of its first columns.

Without it, SQLite takes any index that begins with the engine, also the one over all jobs that ever were. Real statistics
would cost a look at all rows, and would describe the empty file that a ledger begins as.
"""


def upgrade() -> None:
    """Apply. Indexes come first: on PostgreSQL they keep writers away until the counts are complete and kept."""
    op.create_index("ix_jobs_status", "jobs", ["tenant", "status", "id"])
    op.create_index("ix_jobs_engine", "jobs", ["engine", "tenant", "status", "id"])
    op.drop_index("ix_jobs_tenant", "jobs")
    op.drop_index("ix_dead_letters_tenant", "dead_letters")
    op.create_index("ix_dead_letters_tenant", "dead_letters", ["tenant", "created_at", "id"])
    where = sa.text(_NO_JOBS)
    op.create_index("ix_dead_letters_old", "dead_letters", ["created_at"], sqlite_where=where, postgresql_where=where)
    where = sa.text(_OF_NO_JOB)
    op.create_index("ix_notices_old", "notices", ["created_at"], sqlite_where=where, postgresql_where=where)
    op.create_index("ix_engines_updated", "engines", ["updated_at"])
    op.create_table(
        "job_counts",
        sa.Column("engine", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(24), primary_key=True),
        sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("waiting", sa.Integer, nullable=False),
        sa.Column("handed_over", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO job_counts SELECT engine, tenant, 0, sum(waiting), sum(handed_over) FROM ("
        "SELECT engine, tenant, 1 AS waiting, 0 AS handed_over FROM jobs WHERE status = 'queued' AND handed_over_at IS NULL "
        "UNION ALL SELECT engine, tenant, 0, 1 FROM jobs WHERE handed_over_at IS NOT NULL) AS unfinished "
        "GROUP BY engine, tenant"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_COUNT_POSTGRES)
        op.execute(_FUNCTION_POSTGRES)
        for name, when in _TRIGGERS_POSTGRES.items():
            op.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION count_jobs()")
    else:
        for name, body in _TRIGGERS_SQLITE.items():
            op.execute(f"CREATE TRIGGER {name} {body}")
        op.execute("ANALYZE alembic_version")  # Makes the table of statistics, which nothing else can.
        statistics = sa.table("sqlite_stat1", sa.column("tbl"), sa.column("idx"), sa.column("stat"))
        op.bulk_insert(
            statistics, [{"tbl": "jobs", "idx": index, "stat": shape} for index, shape in _SHAPES_SQLITE.items()]
        )


def downgrade() -> None:
    """Undo."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION count_jobs() CASCADE")
        op.execute("DROP FUNCTION count_job(text, text, int, int)")
    else:
        for name in _TRIGGERS_SQLITE:
            op.execute(f"DROP TRIGGER {name}")
        op.execute("DELETE FROM sqlite_stat1")
    op.drop_table("job_counts")
    op.drop_index("ix_engines_updated", "engines")
    op.drop_index("ix_notices_old", "notices")
    op.drop_index("ix_dead_letters_old", "dead_letters")
    op.drop_index("ix_dead_letters_tenant", "dead_letters")
    op.create_index("ix_dead_letters_tenant", "dead_letters", ["tenant", "id"])
    op.create_index("ix_jobs_tenant", "jobs", ["tenant", "id"])
    op.drop_index("ix_jobs_engine", "jobs")
    op.drop_index("ix_jobs_status", "jobs")
