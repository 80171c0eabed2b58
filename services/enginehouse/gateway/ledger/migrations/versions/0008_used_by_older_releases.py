"""Note which migration a gateway must know at least to work with the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
breaks_older = False


def upgrade() -> None:
    """Apply."""
    op.add_column("alembic_version", sa.Column("oldest", sa.String(32)))


def downgrade() -> None:
    """Undo."""
    op.drop_column("alembic_version", "oldest")
