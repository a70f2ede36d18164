"""The statement of a page of records: every SQL fragment is fixed, and every value is a parameter. No I/O."""

from typing import Any
from uuid import UUID

from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.store.catalog.views import RecordFilters
from headrace.store.postgres import statements

TIME_US_MAX = 253_402_300_799_999_999  # the last microsecond of the year 9999
_TIME = "timestamptz 'epoch' + {}::bigint * interval '1 microsecond'"


def page_query(filters: RecordFilters, after: tuple[int, UUID] | None, limit: int) -> tuple[str, list[Any]]:
    """Return the statement for a page and its parameters; `after` is the key of the last record before it."""
    driver, sighted_driver = _drivers(filters)
    conditions, values = _conditions(filters, driver, after)
    sighted, _ = _conditions(filters, sighted_driver, after)
    sql = statements("queries")
    # Whoever reads everything, without a site or source, sees each record once, as it was delivered first.
    is_of_sources = any(of is not None for of in (filters.site, filters.source_id, filters.scopes))
    text = sql["page_of_sources" if is_of_sources else "page"]
    for word in ("sighted_columns", "columns"):
        text = text.replace(f"{{{word}}}", sql[word])
    text = text.replace("{driver}", sql[driver]).replace("{sighted_driver}", sql[sighted_driver])
    return text.replace("{conditions}", conditions).replace("{sighted_conditions}", sighted), [limit, *values]


def cursor_of(ingested_at_us: int, last_id: UUID) -> str:
    """Return the cursor that continues after this record."""
    return f"{ingested_at_us}.{last_id}"


def key_of(cursor: str) -> tuple[int, UUID]:
    """Return the key in a cursor.

    Raises:
        ValueError: the cursor is invalid.
    """
    time, _, last_id = cursor.partition(".")
    time_us = int(time)
    if not 0 <= time_us <= TIME_US_MAX:
        raise ValueError("the cursor's time is out of range")
    return time_us, UUID(last_id)


def within(of: str, scopes: str, source: str = "source_id") -> str:
    """Return the condition that the row `of` is within the scopes of a parameter; `source` is its source's column."""
    condition = statements("queries")["within"].replace("{of}", of)
    return condition.replace("{scopes}", scopes).replace("{source}", source)


# How the records of a driver's row are found: the columns of an index.
_JOINED = {
    "nothing_more": (),
    "every_kind": ("kind",),
    "every_kind_of_source": ("site", "source_id", "kind"),
    "every_source": ("site", "source_id"),
}


def _drivers(filters: RecordFilters) -> tuple[str, str]:
    """Choose what a page is merged from: its records, and those that a further site delivered.

    A digest, LDO id or code has an index of its own; otherwise sources or kinds are scanned.
    """
    if filters.digest is not None or filters.ldo_id is not None or filters.code is not None:
        return "nothing_more", "nothing_more"
    if filters.site is not None or filters.source_id is not None or filters.scopes is not None:
        return "every_kind_of_source", "every_source"
    return "every_kind", "every_kind"


def _conditions(filters: RecordFilters, driver: str, after: tuple[int, UUID] | None) -> tuple[str, list[Any]]:
    """Return the conditions of a driver's records, and their parameters from $2 on."""
    conditions = [f"r.{column} = wanted.{column}" for column in _JOINED[driver]]
    values: list[Any] = []
    for condition, value in _wanted(filters, driver):
        if value is not None:
            values.append(value)
            conditions.append(condition.format(f"${len(values) + 1}"))
    if after is not None:
        values += after
        time = _TIME.format(f"${len(values)}")
        conditions.append(f"(r.ingested_at, r.record_id) < ({time}, ${len(values) + 1}::uuid)")
    return " and ".join(conditions) or "true", values


def _wanted(filters: RecordFilters, driver: str) -> list[tuple[str, Any]]:
    # A source or kind filters the driver's rows, which are then few; the join applies it to the records.
    of = "wanted" if "source_id" in _JOINED[driver] else "r"
    of_kind = "wanted" if "kind" in _JOINED[driver] else "r"
    kinds = None if filters.kinds is None else sorted(filters.kinds)
    # A record's id follows from its kind and digest, so its primary key finds the digest too.
    ids = None if filters.digest is None else [record_id(kind, filters.digest) for kind in Kind]
    return [
        ("r.record_id = any({}::uuid[])", ids),
        ("r.ldo_id = {}", filters.ldo_id),
        ("r.code = {}", filters.code),
        (f"{of}.site = {{}}", filters.site),
        (f"{of}.source_id = {{}}", filters.source_id),
        (within(of, "{0}"), filters.scopes),
        (f"{of_kind}.kind = any({{}}::text[])", kinds),
        (f"r.ingested_at >= {_TIME}", filters.since_us),
        (f"r.ingested_at < {_TIME}", filters.until_us),
    ]
