-- The commits of a backlog; $1 is the start of the run by the catalog's clock.

-- now --
select clock_timestamp()

-- recorded --
select count(*) from sightings where topic = $2 and seen_at >= $1

-- unpublished --
select count(*) from outbox where published_at is null

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
