-- The commits of a backlog.

-- begin --
-- The time, and up to which offsets the partitions of a topic are recorded.
select clock_timestamp(), coalesce(sum(next_offset), 0)::bigint from ingest_progress where topic = $1

-- first_unpublished --
select min(id) from outbox where published_at is null and topic = $1

-- committed --
-- The rows of a batch have the start time of its transaction.
with seen as (
    select seen_at, count(*) as rows
    from sightings
    where topic = $2 and seen_at >= $1
    group by seen_at
), announced as (
    select count(*) as rows, max(published_at) as last_at
    from outbox
    where created_at >= $1 and record_id is not null
)
select
    coalesce(sum(seen.rows), 0)::bigint,
    count(*),
    coalesce((array_agg(seen.rows order by seen.seen_at))[1], 0)::bigint,
    coalesce(extract(epoch from min(seen.seen_at)), 0)::float8,
    coalesce(extract(epoch from max(seen.seen_at)), 0)::float8,
    (select rows from announced),
    coalesce(extract(epoch from (select last_at from announced)), 0)::float8
from seen

-- published --
-- The rows of a transaction have its start time.
with marked as (
    select published_at, count(*) as rows
    from outbox
    where created_at >= $1 and topic = $2 and published_at is not null
    group by published_at
)
select
    coalesce(sum(rows), 0)::bigint,
    count(*),
    coalesce((array_agg(rows order by published_at))[1], 0)::bigint,
    coalesce(extract(epoch from min(published_at)), 0)::float8,
    coalesce(extract(epoch from max(published_at)), 0)::float8,
    coalesce(sum(rows), 0)::bigint,
    coalesce(extract(epoch from max(published_at)), 0)::float8
from marked
