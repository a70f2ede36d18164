-- The read side. Times come out as microseconds since 1970; numeric keeps them exact.

-- list_records --
-- Newest first, page by page by key: as quick on the last page as on the first. The kinds' indexes each give their
-- newest, and the pages are merged from those.
select r.*
from unnest($1::text[]) as wanted (kind)
cross join lateral (
    select {columns}
    from records as r
    where r.kind = wanted.kind
        and ($2::timestamptz is null or (r.ingested_at, r.record_id) < ($2::timestamptz, $3::uuid))
        and {filters}
    order by r.ingested_at desc, r.record_id desc
    limit {limit}
) as r
order by r.ingested_at desc, r.record_id desc
limit {limit}

-- list_records_of --
-- The same where a filter has an index of its own, which then leads.
select {columns}
from records as r
where r.kind = any($1::text[])
    and ($2::timestamptz is null or (r.ingested_at, r.record_id) < ($2::timestamptz, $3::uuid))
    and {filters}
order by r.ingested_at desc, r.record_id desc
limit {limit}
