"""Runs the migrations over the connection that the ledger gives to Alembic."""

from alembic import context

from enginehouse.gateway.ledger.indexes import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
