"""On PostgreSQL, lock engines' windows and read their counts in one call, which waits a moment for other gateways."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# `lock_timeout` bounds the wait: a gateway that hangs in a transaction holds up the others for so long only. It is shorter
# than PostgreSQL's `deadlock_timeout`: two gateways that wait for each other go on before that is taken for a deadlock.
# The counts are read by a later statement than the locks, so they show what the gateways before have committed.
_LOCK_WINDOWS = """
CREATE OR REPLACE FUNCTION lock_windows(engines text[]) RETURNS TABLE (engine text, waiting bigint, handed_over bigint)
LANGUAGE plpgsql SET lock_timeout = '150ms' AS $$
DECLARE
    one text;
    locked text[] := '{}';
    patient boolean := true;
BEGIN
    FOREACH one IN ARRAY engines LOOP
        IF pg_try_advisory_xact_lock(hashtext(one)) THEN
            locked := locked || one;
        ELSIF patient THEN
            BEGIN
                PERFORM pg_advisory_xact_lock(hashtext(one));
                locked := locked || one;
            EXCEPTION WHEN lock_not_available THEN
                patient := false;
            END;
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT each, coalesce(sum(c.waiting), 0)::bigint, coalesce(sum(c.handed_over), 0)::bigint
        FROM unnest(locked) AS each LEFT JOIN job_counts c ON c.engine = each GROUP BY each;
END $$
"""


def upgrade() -> None:
    """Apply."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_LOCK_WINDOWS)


def downgrade() -> None:
    """Undo."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION lock_windows(text[])")
