"""The worker's composition root: everything below it receives plain values and ports."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiokafka.errors import TopicAuthorizationFailedError

from headrace.runtime.acl import Operation, missing_acl
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import require_topics, wait_for_kafka
from headrace.runtime.liveness import liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.events import Kind
from headrace.schemas.topics import kind_of_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import StagedBodies
from headrace.store.catalog.catalog import Catalog
from headrace.store.installation import require_installation
from headrace.streams.core.quota import Quota
from headrace.streams.worker import agents
from headrace.streams.worker.batch_pipeline import BatchPipeline, PipelineLimits
from headrace.streams.worker.group_commit import GroupCommit
from headrace.streams.worker.ingest import Ingest
from headrace.streams.worker.input_check import InputCheck
from headrace.streams.worker.lag import LagProbe
from headrace.streams.worker.membership import Membership
from headrace.streams.worker.mirrored_topics import InputTopics
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.profile import LARGE, SMALL, Group, faust_app
from headrace.streams.worker.retry import Retry, RetryPolicy

DRAIN_S_MAX = 10.0  # for batches in flight after SIGTERM; unfinished ones are delivered again
FAUST_STOP_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Stores:
    """The opened blob store and catalog."""

    blobs: Blobs
    catalog: Catalog


def group_of(kinds: frozenset[Kind]) -> Group:
    """Return the consumer group of these kinds.

    Raises:
        HeadraceError: small and large kinds are mixed, or there is none.
    """
    for group in (SMALL, LARGE):
        if kinds and kinds <= group.kinds:
            return group
    raise HeadraceError(
        "kinds_mixed",
        "a worker ingests small events or large ones: a full buffer of frames would delay the scans",
        hint="use --kinds cids,ldos in one process and --kinds frames,clips in another",
        exit_code=Exit.USAGE,
    )


async def work(settings: Settings, kinds: frozenset[Kind], stop: asyncio.Event) -> int:
    """Ingest until `stop` is set; return the exit code.

    Raises:
        HeadraceError: a service is unavailable at the start or refuses, or a topic does not exist.
    """
    group = group_of(kinds)
    admin = await wait_for_kafka(settings, stop=stop)
    topics = InputTopics(settings, kinds)
    await asyncio.to_thread(require_topics, settings, admin, dict.fromkeys(topics.names, Operation.READ))
    await asyncio.to_thread(topics.look)
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened_stores(settings, stop))
        app = faust_app(settings, group, kinds)
        membership = Membership(app)
        ingest = _ingest(settings, stores)
        check = InputCheck(settings, group.name, stores.catalog, ingest.retry, _halt)
        app.on_assigned, app.on_deleted = check.on_assigned, check.on_deleted
        pipelines = _pipelines(settings, ingest, await _quotas(settings, kinds, stores.catalog))
        for kind, pipeline in pipelines.items():
            agents.register(app, kind, topics.by_kind[kind], pipeline)
        lag = LagProbe(settings, group.name, topics, membership.assignment)
        lag.on_markers = partial(check.on_markers, asyncio.get_running_loop())
        lag.on_look = check.on_look
        lag.start()
        stack.push_async_callback(asyncio.to_thread, lag.stop)
        await stack.enter_async_context(
            liveness(
                settings,
                # Without an answer from the broker, the broker is at fault, not this process.
                waiting=lambda: (lag.answered and membership.overdue()) or lag.waiting(),
                progress=lambda: "not in the group" if membership.overdue() else _progress(lag, ingest),
                doing=lambda: "ingesting, or idle",
                probes={
                    "store": stores.blobs.check,
                    "postgres": stores.catalog.check,
                    "kafka": lag.check,
                    "kafka_group": membership.check,
                },
            )
        )
        get_log().info(Action.STARTED, group=group.name, kinds=[kind.value for kind in sorted(kinds)])
        return await _serve(app, topics, pipelines.values(), stop)


@asynccontextmanager
async def opened_stores(settings: Settings, stop: asyncio.Event) -> AsyncIterator[Stores]:
    """Open blob store and catalog, waiting for each up to `start_wait_s_max`."""
    blobs = Blobs.from_settings(settings)
    await wait_for("store", blobs.check, wait_s_max=settings.start_wait_s_max, stop=stop)
    catalog = await wait_for(
        "postgres", lambda: _opened_catalog(settings), wait_s_max=settings.start_wait_s_max, stop=stop
    )
    try:
        await catalog.check()
        await require_installation(settings, blobs)
        yield Stores(blobs, catalog)
    finally:
        await catalog.close()


async def _opened_catalog(settings: Settings) -> Catalog:
    return await Catalog.open(
        settings.postgres_dsn.get_secret_value(),
        connections_max=settings.postgres_connections_max,
        statement_s_max=settings.postgres_statement_s_max,
        application="headrace-worker",
    )


def _ingest(settings: Settings, stores: Stores) -> Ingest:
    policy = RetryPolicy(settings.retry_delay_s, settings.retry_delay_s_max, settings.processing_deadline_s)
    ports = IngestPorts(stores.blobs, StagedBodies(stores.blobs), stores.catalog)
    return Ingest(ports, retry=Retry(policy))


async def _quotas(settings: Settings, kinds: frozenset[Kind], catalog: Catalog) -> dict[Kind, Quota]:
    """Return the quota of each kind, with what the catalog has of the window: a restart must not begin it anew."""
    quotas = {}
    for kind in sorted(kinds):
        quotas[kind] = Quota(settings.dead_letter_quota, settings.dead_letter_quota_s)
        quotas[kind].count(time.monotonic(), await catalog.recent_outcomes(kind, settings.dead_letter_quota_s))
    return quotas


def _pipelines(settings: Settings, ingest: Ingest, quotas: Mapping[Kind, Quota]) -> dict[Kind, BatchPipeline]:
    commits = GroupCommit(ingest)
    return {
        kind: BatchPipeline(
            kind,
            commits,
            limits=PipelineLimits(
                batches_max=settings.batches_in_flight_max,
                messages_max=_batch_max(settings, frozenset(quotas)),
                bytes_max=settings.in_flight_bytes_max,
            ),
            quota=quota,
            halt=_halt,
        )
        for kind, quota in quotas.items()
    }


def _batch_max(settings: Settings, kinds: frozenset[Kind]) -> int:
    return settings.batch_messages_max if kinds <= SMALL.kinds else settings.batch_frames_max


def _progress(lag: LagProbe, ingest: Ingest) -> object:
    """Return the partition without progress for longest, and the steps of its kind: other kinds must not hide it."""
    longest = lag.progress()
    kind = None if longest is None else kind_of_topic(longest[0][0])
    return longest, None if kind is None else ingest.steps[kind]


async def _serve(app: Any, topics: InputTopics, pipelines: Iterable[BatchPipeline], stop: asyncio.Event) -> int:
    try:
        await app.start()
    except Exception as error:  # noqa: BLE001 - Faust's agents would swallow the cancellation that follows an exception
        _halt(Exit.BROKEN, f"Faust did not start: {error!r}")
    get_log().info(Action.READY)
    stopping = asyncio.create_task(stop.wait())
    crashed = asyncio.create_task(app.wait_until_stopped())
    following = asyncio.create_task(topics.follow(app), name="mirrored topics")
    await asyncio.wait({stopping, crashed, following}, return_when=asyncio.FIRST_COMPLETED)
    crashed.cancel()
    if following.done() and not stop.is_set():
        _halt(Exit.BROKEN, f"following the mirrored topics failed: {following.exception()!r}")
    following.cancel()
    if not stop.is_set():
        # Faust stops its services when one of them crashes; unacknowledged messages are delivered again.
        _halt(Exit.BROKEN, _why_stopped(app.crash_reason))
    await asyncio.wait([asyncio.create_task(pipeline.drain()) for pipeline in pipelines], timeout=DRAIN_S_MAX)
    try:
        async with asyncio.timeout(FAUST_STOP_S_MAX):
            await app.consumer.commit()
            await app.stop()
    except TimeoutError:
        get_log().warning(Action.STOP_FORCED, after_s=FAUST_STOP_S_MAX)
    return Exit.OK


def _why_stopped(reason: BaseException | None) -> str:
    match reason:
        case TopicAuthorizationFailedError(args=(str(topic), *_)):
            return missing_acl(Operation.READ, topic)
        case _:
            return f"Faust stopped: {reason!r}"


def _halt(exit_code: int, why: str) -> None:
    """End the process at once: a graceful end could acknowledge messages that must be delivered again."""
    get_log().error(Action.HALTED, exit_code=int(exit_code), why=why)
    sys.stderr.flush()
    os._exit(exit_code)
