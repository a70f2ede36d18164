"""The servers that tests share: where their data is, settings for them, and a database for each test."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from headrace.native import StackInfo
from headrace.runtime.settings import Settings, load_settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.installation import CatalogIdentity, catalog_identity, mark_store
from headrace.store.postgres import opened_pool

STACK = pytest.StashKey[StackInfo]()
"""Where a run keeps the stack that it started."""
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 * 1024**3
pool_of = partial(opened_pool, connections_max=1, statement_s_max=30.0, application="test")
TEMPLATE = "headrace"  # the stack's own database, migrated once and never written to


def in_memory_directory() -> Path:
    """A directory for servers' data, in memory where this machine has room: no test loses power."""
    has_room = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN
    return Path(tempfile.mkdtemp(prefix="headrace-", dir=MEMORY if has_room else None))


def settings_of(stack: StackInfo, **changes: object) -> Settings:
    prefix = len("HEADRACE_")
    return load_settings(
        _env_file=None, **{name[prefix:].lower(): value for name, value in stack.env().items()}, **changes
    )


@contextmanager
def fresh_database(settings: Settings, *, template: str = TEMPLATE) -> Iterator[Settings]:
    """Clone the migrated template, or another database that nobody is connected to, and drop the clone afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    server = settings.postgres_dsn.get_secret_value().rsplit("/", 1)[0]
    _sql(f"{server}/postgres", f'create database "{name}" template "{template}"')
    try:
        yield settings.model_copy(update={"postgres_dsn": type(settings.postgres_dsn)(f"{server}/{name}")})
    finally:
        _sql(f"{server}/postgres", f'drop database "{name}" with (force)')


def own_store(settings: Settings) -> Settings:
    """A part of the bucket that no other test has, marked as a store of the same installation."""
    own = settings.model_copy(update={"store_url": f"{settings.store_url}/{uuid4().hex}"})
    asyncio.run(mark_own(own))
    return own


async def mark_own(settings: Settings) -> CatalogIdentity:
    """Mark the store as one of the catalog's installation, and return the identity of that."""
    identity = await identity_of(settings)
    await mark_store(Blobs.from_settings(settings), identity.mark)
    return identity


async def identity_of(settings: Settings) -> CatalogIdentity:
    identity = await catalog_identity(settings)
    assert identity is not None
    return identity


def _sql(dsn: str, text: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(text)
        finally:
            await connection.close()

    asyncio.run(execute())
