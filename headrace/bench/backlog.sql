-- What the catalog says of a backlog; $1 is when the run began, by the catalog's own clock.

-- now --
select clock_timestamp()

-- recorded --
select count(*) from sightings where topic = $2 and seen_at >= $1

-- unpublished --
select count(*) from outbox where published_at is null

-- committed --
-- A batch's rows carry the time at which its transaction began.
with seen as (
    select seen_at, count(*) as rows
    from sightings
    where topic = $2 and seen_at >= $1
    group by seen_at
), told as (
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
    (select rows from told),
    coalesce(extract(epoch from (select last_at from told)), 0)::float8
from seen
