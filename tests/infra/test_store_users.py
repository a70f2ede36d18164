"""What each process's key may do in the store, asked of MinIO itself."""

from collections.abc import Awaitable
from pathlib import Path
from uuid import uuid4

import pytest

from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.bucket import ensure_bucket
from headrace.store.blobs.store_url import StoreAccess
from headrace.store.errors import StoreRefusedError
from tests.infra.store_users import POLICIES, StoreUsers

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]

EVERYWHERE = (
    *("blobs", "packs", "derived", "erased", "installation"),
    *("staging", "staging/~gateway", "promoting", "quarantine", "elsewhere"),
)
STAGING = {"staging", "staging/~gateway"}
# What a process reads, writes and deletes; nothing else is allowed.
RIGHTS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "worker": (
        {"blobs", "packs", "installation", "promoting", *STAGING},
        {"blobs", "packs", "promoting"},
        {"promoting", *STAGING},
    ),
    "gateway": ({"blobs", "packs", "installation", *STAGING}, STAGING, {"staging/~gateway"}),
    "relay": ({"installation"}, set(), set()),
    "capture": ({"installation"}, STAGING, set()),
    "preprocessing": ({"blobs", "packs", "derived", "erased", "installation"}, {"derived"}, {"derived"}),
    "perception": ({"blobs", "packs", "erased", "installation"}, set(), set()),
    "operator": (set(EVERYWHERE), set(EVERYWHERE), set(EVERYWHERE)),
    "init": ({"installation"}, {"installation"}, set()),
}
LISTING = {"worker", "gateway", "preprocessing", "perception", "operator", "init"}
ARCHIVE = {"operator"}


@pytest.fixture(scope="module")
def users(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> StoreUsers:
    return StoreUsers.make(stack_settings, tmp_path_factory.mktemp("users"))


async def is_allowed(work: Awaitable[object]) -> bool:
    refusals = []
    try:
        await work
    except StoreRefusedError as error:
        refusals.append(error)
    for refusal in refusals:
        assert "403" in refusal.what or "AccessDenied" in refusal.what
        assert "HEADRACE_STORE_ACCESS_KEY" in refusal.hint
    return not refusals


def test_every_policy_is_asked() -> None:
    assert sorted(RIGHTS) == POLICIES


@pytest.mark.parametrize("policy", RIGHTS)
async def test_a_key_may_do_what_its_process_needs_and_nothing_else(users: StoreUsers, policy: str) -> None:
    root, own = Blobs.from_settings(users.settings), Blobs.from_settings(users.as_user(policy))
    keys = {prefix: f"{prefix}/test-{uuid4().hex}" for prefix in EVERYWHERE}
    for key in keys.values():
        await root.put(key, b"bytes")
    read = {prefix for prefix, key in keys.items() if await is_allowed(own.get(key))}
    written = {prefix for prefix, key in keys.items() if await is_allowed(own.replace(key, b"other"))}
    created = {prefix for prefix, key in keys.items() if await is_allowed(own.create(f"{key}-new", b"bytes"))}
    deleted = {prefix for prefix, key in keys.items() if await is_allowed(own.delete(key))}
    assert (read, written, deleted) == RIGHTS[policy]
    assert created == written
    for prefix, key in keys.items():
        assert (await root.stat(key) is None) == (prefix in deleted)
        for name in (key, f"{key}-new"):
            await root.delete(name)
    assert await is_allowed(own.check()) == (policy in LISTING)


@pytest.mark.parametrize("policy", RIGHTS)
async def test_only_operators_have_the_archive(users: StoreUsers, policy: str) -> None:
    settings = users.settings
    archive = settings.model_copy(update={"store_url": settings.archive_url})
    root, own = Blobs.from_settings(archive), Blobs.from_settings(users.as_user(policy, archive))
    key = f"blobs/test-{uuid4().hex}"
    await root.put(key, b"bytes")
    assert await is_allowed(own.get(key)) == (policy in ARCHIVE)
    assert await is_allowed(own.delete(key)) == (policy in ARCHIVE)
    await root.delete(key)


@pytest.mark.parametrize("policy", RIGHTS)
async def test_only_init_makes_buckets_and_only_its_own(users: StoreUsers, policy: str) -> None:
    access = StoreAccess.of(users.as_user(policy))
    made = await is_created(users.settings.store_url, access)
    assert made == (policy == "init")
    assert not await is_created(f"s3://other-{uuid4().hex}", access)


async def is_created(url: str, access: StoreAccess) -> bool:
    refusals = []
    try:
        await ensure_bucket(url, access, staging_days=8.0)
    except StoreRefusedError as error:
        refusals.append(error.what)
    assert all("AccessDenied" in refusal for refusal in refusals)
    return not refusals


async def test_a_changed_key_counts_after_the_next_run(users: StoreUsers, tmp_path: Path) -> None:
    before = users.as_user("perception")
    users.key_file("perception").write_text("another-key-of-the-consumer\n")
    users.run()
    assert await is_allowed(Blobs.from_settings(users.as_user("perception")).check())
    assert not await is_allowed(Blobs.from_settings(before).check())
    await test_a_key_may_do_what_its_process_needs_and_nothing_else(users, "perception")
