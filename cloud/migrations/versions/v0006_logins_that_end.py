"""What a token lets in does not live longer than the token."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = ("login_code", "console_session")


def upgrade() -> None:
    """Say of each code and each session until when what comes of it may live; nothing for those that are there."""
    for table in _TABLES:
        op.add_column(table, sa.Column("until_ms", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Forget it."""
    for table in _TABLES:
        op.drop_column(table, "until_ms")
