"""Index the jobs whose time has not come: they are counted for those who scale engines, every second."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
breaks_older = False

_NOT_YET = "status = 'queued' AND handed_over_at IS NULL AND available_at > created_at"


def upgrade() -> None:
    """Apply."""
    where = sa.text(_NOT_YET)
    op.create_index("ix_jobs_not_yet", "jobs", ["available_at", "engine"], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_jobs_not_yet", "jobs")
