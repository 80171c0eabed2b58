"""Make room for the address of a version on trial, `<engine id>@trial`."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = (("jobs", "engine"), ("engines", "id"), ("dead_letters", "engine"))


def upgrade() -> None:
    """Apply. SQLite does not look at lengths, and would copy whole tables to change one."""
    _resize(64)


def downgrade() -> None:
    """Undo."""
    _resize(50)


def _resize(length: int) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, column in _COLUMNS:
            op.alter_column(table, column, type_=sa.String(length))
