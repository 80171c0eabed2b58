"""Remember whether an operator decided the state of an engine: its owner may end only a decision of the breaker."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Who quarantined an engine before is not known, so these quarantines stay the operators'."""
    op.add_column("engines", sa.Column("by_operator", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute("UPDATE engines SET by_operator = true WHERE state = 'quarantined'")


def downgrade() -> None:
    """Undo."""
    op.drop_column("engines", "by_operator")
