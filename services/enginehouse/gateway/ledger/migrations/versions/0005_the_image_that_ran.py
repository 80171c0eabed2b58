"""Remember from which image the container was made that worked on a job."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("image", sa.Text()))


def downgrade() -> None:
    """Undo."""
    op.drop_column("jobs", "image")
