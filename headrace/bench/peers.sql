-- What a worker has written for a topic since $1, and tables of the same shape to insert it into again.

-- tables --
create schema if not exists bench;
drop table if exists bench.blobs, bench.records, bench.sightings, bench.outbox;
create table bench.blobs (like public.blobs including all);
create table bench.records (like public.records including all);
create table bench.sightings (like public.sightings including all);
create table bench.outbox (like public.outbox including all)

-- sightings --
select * from sightings where seen_at >= $1 and topic = $2 order by partition, "offset" limit $3

-- records --
select * from records where record_id = any($1::uuid[])

-- blobs --
select * from blobs where sha256 = any($1::bytea[])

-- outbox --
-- As it was inserted: nothing is published yet.
select id, event_id, topic, record_id, dead_letter_id, created_at, null::timestamptz as published_at, site, set_aside
from outbox
where record_id = any($1::uuid[])

-- drop --
drop schema if exists bench cascade
