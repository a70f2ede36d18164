"""`GET /api/v1/records` and `GET /api/v1/records/{id}`: what was ingested, as far as the caller reaches."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from headrace.gateway.auth.guard import Device
from headrace.gateway.deps import CacheDep, QueriesDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.cache import LIST_S, Cache, name_of
from headrace.gateway.queries.conditional import cacheable
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
from headrace.gateway.queries.records import RecordPage, RecordWhole, page_of, whole
from headrace.gateway.queries.scopes import listed_source, scopes_of
from headrace.schemas.events import Kind
from headrace.store.catalog.queries import Queries
from headrace.store.catalog.views import RecordFilters
from headrace.store.errors import RecordMissingError

router = APIRouter(prefix="/api/v1/records", tags=["records"])

RECORD_S = 3  # how long one record may be kept: new sightings come to it
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The caller has it already."}}


@router.get("", response_model=RecordPage, responses={**_UNCHANGED, **problem_responses()})
async def list_records(  # noqa: PLR0913, PLR0917 - the filters
    request: Request,
    queries: QueriesDep,
    cache: CacheDep,
    principal: Device,
    kind: Annotated[list[Kind] | None, Query(max_length=len(Kind), description="Of these kinds.")] = None,
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
    """List records, newest first. What is ingested meanwhile does not shift the pages.

    A key or token for one source lists that source; one for several has to say which.
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


@router.get("/{id:path}", response_model=RecordWhole, responses={**_UNCHANGED, **problem_responses(404, 409)})
async def show_record(
    request: Request,
    queries: QueriesDep,
    principal: Device,
    wanted: Annotated[
        str,
        Path(
            alias="id",
            max_length=4096,
            description="A record's id or digest, the beginning of one, an LDO's public id, an `ldo_id`, or a code.",
        ),
    ],
) -> Response:
    """Return one record with its sightings; of an `ldo_id` or a code that came several times, the newest."""
    if "\x00" in wanted:
        raise Problem(404, ProblemCode.NOT_FOUND, "there is no such record, or the key does not reach it")
    try:
        detail = await queries.record(wanted, scopes_of(principal))
    except RecordMissingError:
        raise Problem(404, ProblemCode.NOT_FOUND, "there is no such record, or the key does not reach it") from None
    return cacheable(RECORD_S, whole(detail, principal), request)


async def _page(queries: Queries, cache: Cache, filters: RecordFilters, cursor: str | None, limit: int) -> bytes:
    # A set is written in any order, so the kinds stand beside the filters.
    kinds = sorted(filters.kinds or ())
    name = name_of("records", kinds, replace(filters, kinds=None), cursor, limit)
    if (kept := await cache.get(name)) is not None:
        return kept
    after = None if cursor is None else decode_cursor(cursor)
    try:
        page = await queries.list_records(filters, cursor=after, limit=limit)
    except ValueError:
        raise invalid_cursor() from None
    data = page_of(page.records, None if page.cursor is None else encode_cursor(page.cursor))
    await cache.put(name, data, LIST_S)
    return data
