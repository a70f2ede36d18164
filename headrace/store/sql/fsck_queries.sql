-- The comparisons and repairs of `headrace fsck`.

-- alone --
select sha256, size_bytes, media_type, store_key
from blobs
where store_offset is null and sha256 > $1 and sha256 <= $2 and (archived_at is not null) = $4
order by sha256
limit $3

-- packs --
select store_key, count(*) as members, max(store_offset + size_bytes) as end_bytes
from blobs
where store_offset is not null and (archived_at is not null) = $1
group by store_key

-- members --
select sha256, size_bytes, media_type, store_offset
from blobs
where store_key = $1 collate "C" and store_offset is not null and (archived_at is not null) = $2
order by store_offset

-- archived --
select min(archived_at) is not null from blobs where archived_at is not null

-- leavings --
select store_key from leavings where place = $1

-- named --
select wanted.store_key
from unnest($1::text[]) as wanted (store_key)
where exists (select from blobs_of(wanted.store_key) as b where (b.archived_at is not null) = $2)

-- records_without_blob --
select r.record_id, r.kind, r.digest, r.size_bytes, r.media_type
from records as r
where not exists (select from blobs as b where b.sha256 = r.digest)
    and not exists (select from transfers as t where t.record_id = r.record_id)
order by r.record_id
limit $1

-- records_without_announcement --
-- Both rows are written by one transaction and have the same time, so pruned rows are not reported as missing. A record
-- that an erasure gave to a further site has the announcement of that site.
select r.record_id, r.kind
from records as r, collection as c
where r.ingested_at >= c.outbox_pruned_until
    and not exists (select from outbox as o where o.record_id = r.record_id and (o.site is null or o.site = r.site))
    and not exists (select from transfers as t where t.record_id = r.record_id)
order by r.ingested_at, r.record_id
limit $1

-- late --
select topic, count(*) as number, ceil(extract(epoch from now() - min(created_at)))::bigint as oldest_s
from outbox
where published_at is null and created_at < now() - $1::integer * interval '1 second'
group by topic
order by topic

-- announcements_without_record --
select o.id, o.event_id, o.record_id, o.published_at is not null as published
from outbox as o
where o.record_id is not null and not exists (select from records as r where r.record_id = o.record_id)
    and not exists (select from erased_announcements as e where e.subject_id = o.record_id and not e.is_part)
order by o.id
limit $1

-- unknown_records --
select a.record_id
from unnest($1::uuid[]) as a (record_id)
where not exists (select from records as r where r.record_id = a.record_id)
and not exists (select from erased_announcements as e where e.subject_id = a.record_id and not e.is_part)

-- now --
select (extract(epoch from clock_timestamp()) * 1000000)::bigint

-- published_records --
-- Published rows of the outbox, since a time from which the topics still have every message; read through a cursor.
select r.record_id, r.kind
from records as r
join outbox as o on o.record_id = r.record_id and o.site is null
where o.published_at < timestamptz 'epoch' + $1::bigint * interval '1 microsecond'
    and o.created_at >= timestamptz 'epoch' + $2::bigint * interval '1 microsecond'

-- media_type --
select media_type from blobs where sha256 = $1

-- positions --
-- The positions of the messages of these records, the latest first: Kafka keeps it for the longest time.
select s.topic, s.partition, coalesce(s.mirrored_offset, s."offset"), r.kind
from records as r
join sightings as s using (record_id)
where r.record_id = any($1::uuid[])
order by s.seen_at desc
limit $2

-- add_blob --
insert into blobs (sha256, size_bytes, media_type, store_key) values ($1, $2, $3, $4) on conflict do nothing

-- move_blob --
with copies as (
    insert into pack_copies (place, store_key, digest)
    select 'store', store_key, sha256 from blobs where sha256 = $1 and store_offset is not null and archived_at is null
    on conflict do nothing
)
update blobs set store_key = $2, store_offset = null where sha256 = $1 and archived_at is null

-- add_announcements --
-- With the records' times, as if they had been written with them. Scans the outbox, once for all.
insert into outbox (event_id, topic, record_id, created_at, published_at)
select a.event_id, a.topic, r.record_id, r.ingested_at, case when a.is_out then now() end
from unnest($1::uuid[], $2::text[], $3::uuid[], $4::boolean[]) as a (event_id, topic, record_id, is_out)
join records as r using (record_id)
where not exists (select from outbox as o where o.record_id = r.record_id and (o.site is null or o.site = r.site))

-- announce_again --
update outbox set published_at = null, set_aside = null where record_id = any($1::uuid[]) and site is null

-- drop_announcement --
delete from outbox where id = $1 and published_at is null

-- notify --
select pg_notify('headrace_outbox', '')

-- old_announcements --
select count(*) from outbox
where published_at is not null and set_aside is null and created_at < now() - $1::integer * interval '1 day'
