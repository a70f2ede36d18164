"""What Alembic runs: the connection comes from headrace.store.migrate, so there is no alembic.ini."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="schema_version")
with context.begin_transaction():
    context.run_migrations()
