"""What Alembic runs: the connection comes from headrace.store.migrate, so there is no alembic.ini."""

from alembic import context

from headrace.store.migrate import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
