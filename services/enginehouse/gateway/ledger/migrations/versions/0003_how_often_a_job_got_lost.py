"""Count how often a job got lost: its hand-overs also count those that a runner ended by handing the job back."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. How often a job got lost before is not known, so it is counted from now on."""
    op.add_column("jobs", sa.Column("losses", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    """Undo."""
    op.drop_column("jobs", "losses")
