"""The public replay: it calls your handler for what the catalog announced, in capture order."""

from collections.abc import Iterable
from datetime import datetime
from typing import TypedDict, Unpack

from headrace.batch.replay.request import Pace, ReplayRequest, parse_speed
from headrace.batch.replay.run import ReplayResult, RunOptions, run_replay
from headrace.batch.replay.sinks import Handler, HandlerSink
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings, load_settings
from headrace.schemas.events import Kind
from headrace.schemas.headers import unix_us_of
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.replays import ReplaySelection


class Selected(TypedDict, total=False):
    """What is replayed; what is left out selects everything. Times without a zone are UTC; `…_before` is excluded."""

    kinds: Iterable[Kind | str]
    sites: Iterable[str]
    sources: Iterable[str]
    captured_from: datetime
    captured_before: datetime
    ingested_from: datetime
    ingested_before: datetime
    digests: Iterable[str]
    labels: Iterable[str]


async def replay(
    handler: Handler,
    *,
    name: str = "",
    speed: float | None = None,
    settings: Settings | None = None,
    **selected: Unpack[Selected],
) -> ReplayResult:
    """Call `handler` with the event and its body for each record of a selection, one after the other.

    The events of a source come in the order in which they were captured, and those of all sources by their time, at
    `speed` times the speed of their capture; without it at full speed. Archived records are left out.

    With a `name`, the same call goes on where an earlier one stopped. The events that were under way when its process
    was killed come again, so a handler must be idempotent (`event.event_id` is the same).

    Example:
        async def print_size(event: Ingested, body: Body) -> None:
            print(event.source_id, event.captured_at_us, len(await body.read()))

        asyncio.run(replay(print_size, kinds=["frame"], sources=["cam-1"], speed=10))

    Raises:
        HeadraceError: a kind is unknown, a setting is invalid, another call has the name, or a service is unreachable.
        Exception: what the handler raised; its event is delivered first by the next call.
    """
    settings = settings or load_settings()
    if speed is not None:
        speed = parse_speed(str(speed))
    handler_name = f"{getattr(handler, '__module__', '')}:{getattr(handler, '__qualname__', '')}"
    request = ReplayRequest(wanted=_selection(selected), sink=f"handler:{handler_name}")
    options = RunOptions(name=name, pace=Pace(speed))
    return await run_replay(settings, request, HandlerSink(handler, Blobs.from_settings(settings)), options)


def _selection(selected: Selected) -> ReplaySelection:
    try:
        kinds = tuple(sorted(Kind(kind) for kind in selected["kinds"])) if "kinds" in selected else None
    except ValueError as error:
        raise HeadraceError("kind_unknown", str(error), hint=f"use one of {', '.join(Kind)}") from None
    return ReplaySelection(
        kinds=kinds,
        sites=_sorted(selected.get("sites")),
        source_ids=_sorted(selected.get("sources")),
        captured_from_us=_us(selected.get("captured_from")),
        captured_until_us=_us(selected.get("captured_before")),
        ingested_from_us=_us(selected.get("ingested_from")),
        ingested_until_us=_us(selected.get("ingested_before")),
        digests=_sorted(selected.get("digests")),
        labels=_sorted(selected.get("labels")),
    )


def _sorted(values: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(sorted(set(values)))


def _us(time: datetime | None) -> int | None:
    return None if time is None else unix_us_of(time)
