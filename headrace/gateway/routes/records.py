"""`GET /api/v1/records` and `GET /api/v1/records/{id}`: the catalog, within the principal's scope."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from headrace.gateway.auth.guard import Device
from headrace.gateway.auth.principal import Principal
from headrace.gateway.deps import CacheDep, QueriesDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.cache import LIST_S, Cache, cache_key
from headrace.gateway.queries.conditional import cacheable
from headrace.gateway.queries.known_parameters import KNOWN_PARAMETERS, KindName
from headrace.gateway.queries.parameters import (
    PAGE_ITEMS,
    CodeFilter,
    Cursor,
    DigestFilter,
    LdoFilter,
    Limit,
    SinceFilter,
    SiteFilter,
    SourceFilter,
    UntilFilter,
    decode_cursor,
    encode_cursor,
    invalid_cursor,
)
from headrace.gateway.queries.records import FetchState, RecordPage, RecordWhole, page_json, record_json
from headrace.gateway.queries.scopes import listed_source, scopes_of
from headrace.schemas.events import Kind
from headrace.store.catalog.queries import Queries
from headrace.store.catalog.views import RecordDetail, RecordFilters
from headrace.store.errors import RecordMissingError

router = APIRouter(prefix="/api/v1/records", tags=["records"], dependencies=[KNOWN_PARAMETERS])
transfers = APIRouter(prefix="/api/v1/transfers", tags=["records"])

RECORD_S = 3  # maximum age of a record, which gets new sightings
RecordKey = Annotated[
    str,
    Path(
        alias="id",
        max_length=4096,
        description="A record id or digest, or a prefix of one; an LDO's public id or `ldo_id`; or a code.",
    ),
]
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Not modified."}}


@router.get("", response_model=RecordPage, responses={**_NOT_MODIFIED, **problem_responses()})
async def list_records(
    request: Request,
    queries: QueriesDep,
    cache: CacheDep,
    principal: Device,
    kind: Annotated[
        list[KindName] | None, Query(max_length=len(Kind), description="Records of these kinds, singular or plural.")
    ] = None,
    site: SiteFilter = None,
    source_id: SourceFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    digest: DigestFilter = None,
    ldo_id: LdoFilter = None,
    code: CodeFilter = None,
    limit: Limit = PAGE_ITEMS,
    cursor: Cursor = None,
) -> Response:
    """List records, newest first; newly ingested records do not shift the pages.

    An API key or token for one source lists that source; one for several sources must name one with the filters.
    """
    site, source_id = listed_source(request, principal, site, source_id)
    filters = RecordFilters(
        kinds=frozenset(kind) if kind else None,
        site=site,
        source_id=source_id,
        since_us=since,
        until_us=until,
        digest=digest,
        ldo_id=ldo_id,
        code=code,
        scopes=scopes_of(principal),
    )
    return cacheable(LIST_S, await _page(queries, cache, filters, cursor, limit), request)


@router.get(
    "/{id:path}",  # noqa: FAST003 - an alias
    response_model=RecordWhole,
    responses={**_NOT_MODIFIED, **problem_responses(404, 409)},
)
async def show_record(
    request: Request,
    queries: QueriesDep,
    principal: Device,
    record_key: RecordKey,
) -> Response:
    """Return a record with its sightings; for an `ldo_id` or a code with several records, the newest."""
    detail = await _detail(queries, principal, record_key)
    is_at_site = detail.record.store_key is None and bool(await queries.transfers_of(detail.record.digest))
    return cacheable(RECORD_S, record_json(detail, is_at_site=is_at_site), request)


@transfers.post(
    "/{id:path}",  # noqa: FAST003 - an alias
    status_code=202,
    response_model=FetchState,
    responses={200: {"model": FetchState, "description": "The bytes are here."}, **problem_responses(404, 409)},
)
async def fetch_record(queries: QueriesDep, principal: Device, record_key: RecordKey) -> JSONResponse:
    """Have the bytes of a record brought from its site before all others."""
    record = (await _detail(queries, principal, record_key)).record
    is_waiting = await queries.request_transfer(record.record_id)
    state = FetchState(record_id=str(record.record_id), state="requested" if is_waiting else "here")
    return JSONResponse(state.model_dump(), 202 if is_waiting else 200, {"Cache-Control": "no-store"})


async def _detail(queries: Queries, principal: Principal, record_key: str) -> RecordDetail:
    if "\x00" in record_key:
        raise Problem(404, ProblemCode.NOT_FOUND, "record not found")
    try:
        return await queries.record(record_key, scopes_of(principal))
    except RecordMissingError:
        raise Problem(404, ProblemCode.NOT_FOUND, "record not found") from None


async def _page(queries: Queries, cache: Cache, filters: RecordFilters, cursor: str | None, limit: int) -> bytes:
    # A set has no order, so the sorted kinds are a part of their own.
    kinds = sorted(filters.kinds or ())
    key = cache_key("records", kinds, replace(filters, kinds=None), cursor, limit)
    if (cached := await cache.get(key)) is not None:
        return cached
    after = None if cursor is None else decode_cursor(cursor)
    try:
        page = await queries.list_records(filters, cursor=after, limit=limit)
    except ValueError:
        raise invalid_cursor() from None
    data = page_json(page.records, None if page.cursor is None else encode_cursor(page.cursor))
    await cache.put(key, data, LIST_S)
    return data
