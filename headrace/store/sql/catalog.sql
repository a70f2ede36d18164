-- The write path. Every statement may be repeated.
--
-- Each column is a JSON array with one element for each row. A row of eight columns takes 8 µs, and 13 µs with arrays
-- of the wire protocol, which asyncpg encodes item by item. Times are microseconds since 1970, added as an interval,
-- which is exact up to the year 2255.

-- insert_blobs --
insert into blobs (sha256, size_bytes, media_type, store_key, store_offset)
select decode(digest, 'hex'), size_bytes::bigint, media_type, store_key, store_offset::bigint
from rows from (
    json_array_elements_text($1::json), json_array_elements_text($2::json), json_array_elements_text($3::json),
    json_array_elements_text($4::json), json_array_elements_text($5::json)
) as b (digest, size_bytes, media_type, store_key, store_offset)
on conflict do nothing

-- note_copies --
-- Those of the rows, which exist already, whose bytes were put into another pack all the same.
insert into pack_copies (place, store_key, digest)
select 'store', n.store_key, b.sha256
from rows from (
    json_array_elements_text($1::json), json_array_elements_text($2::json), json_array_elements_text($3::json)
) as n (digest, store_key, store_offset)
join blobs as b on b.sha256 = decode(n.digest, 'hex')
where n.store_offset is not null and b.store_key <> n.store_key
on conflict do nothing

-- insert_records --
insert into records (
    record_id, kind, digest, site, source_id, captured_at, sequence, media_type, size_bytes,
    width, height, duration_us, ldo_id, code, about, attributes, traceparent, clip_sha256
)
select
    record_id::uuid, kind, decode(digest, 'hex'), site, source_id,
    timestamptz 'epoch' + captured_at_us::bigint * interval '1 microsecond',
    sequence::bigint, media_type, size_bytes::bigint,
    width::integer, height::integer, duration_us::bigint, ldo_id, code, about,
    coalesce(attributes::json, '{}'), traceparent, decode(clip_sha256, 'hex')
from rows from (
    json_array_elements_text($1::json), json_array_elements_text($2::json), json_array_elements_text($3::json),
    json_array_elements_text($4::json), json_array_elements_text($5::json), json_array_elements_text($6::json),
    json_array_elements_text($7::json), json_array_elements_text($8::json), json_array_elements_text($9::json),
    json_array_elements_text($10::json), json_array_elements_text($11::json), json_array_elements_text($12::json),
    json_array_elements_text($13::json), json_array_elements_text($14::json), json_array_elements_text($15::json),
    json_array_elements_text($16::json), json_array_elements_text($17::json), json_array_elements_text($18::json)
) as r (
    record_id, kind, digest, site, source_id, captured_at_us, sequence, media_type, size_bytes,
    width, height, duration_us, ldo_id, code, about, attributes, traceparent, clip_sha256
)
on conflict do nothing
returning record_id

-- insert_sightings --
-- A source's row counts the sightings that are new, so a repeated transaction counts nothing twice.
with seen as (
    insert into sightings (
        topic, partition, "offset", index, record_id, site, source_id, captured_at, sequence, mirrored_offset
    )
    select
        topic, partition::integer, message_offset::bigint, index::integer, record_id::uuid, site, source_id,
        timestamptz 'epoch' + captured_at_us::bigint * interval '1 microsecond',
        sequence::bigint, mirrored_offset::bigint
    from rows from (
        json_array_elements_text($1::json), json_array_elements_text($2::json), json_array_elements_text($3::json),
        json_array_elements_text($4::json), json_array_elements_text($5::json), json_array_elements_text($6::json),
        json_array_elements_text($7::json), json_array_elements_text($8::json), json_array_elements_text($9::json),
        json_array_elements_text($10::json)
    ) as s (
        topic, partition, message_offset, index, record_id, site, source_id, captured_at_us, sequence, mirrored_offset
    )
    on conflict do nothing
    returning site, source_id, sequence
), touched as (
    insert into sources (site, source_id, sequence_max, deliveries)
    select site, source_id, max(sequence), count(*)
    from seen
    group by site, source_id
    order by site, source_id
    on conflict (site, source_id) do update set
        last_seen_at = greatest(sources.last_seen_at, excluded.last_seen_at),
        sequence_max = greatest(sources.sequence_max, excluded.sequence_max),
        deliveries = sources.deliveries + excluded.deliveries
)
select count(*) from seen

-- insert_site_records --
-- A row for each further site of a record, also of one that an earlier statement of the transaction inserted.
insert into site_records (record_id, site, source_id, captured_at, sequence, about, attributes, traceparent)
select
    s.record_id::uuid, s.site, s.source_id,
    timestamptz 'epoch' + s.captured_at_us::bigint * interval '1 microsecond',
    s.sequence::bigint, s.about, coalesce(s.attributes::json, '{}'), s.traceparent
from rows from (
    json_array_elements_text($1::json), json_array_elements_text($2::json), json_array_elements_text($3::json),
    json_array_elements_text($4::json), json_array_elements_text($5::json), json_array_elements_text($6::json),
    json_array_elements_text($7::json), json_array_elements_text($8::json)
) as s (record_id, site, source_id, captured_at_us, sequence, about, attributes, traceparent)
join records as r on r.record_id = s.record_id::uuid
where r.site <> s.site
on conflict do nothing
returning record_id, site

-- insert_dead_letters --
-- Keys and values are bytes of any size, so these columns are arrays of the wire protocol.
insert into dead_letters (
    dead_letter_id, code, reason, topic, partition, "offset", message_timestamp_us, key, value, headers, site, source_id
)
select
    d.dead_letter_id, d.code, d.reason, d.topic, d.partition, d.message_offset, d.message_timestamp_us,
    d.key, d.value, d.headers::json, d.site, d.source_id
from unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bytea[],
    $10::text[], $11::text[], $12::text[]
) as d (
    dead_letter_id, code, reason, topic, partition, message_offset, message_timestamp_us, key, value, headers, site,
    source_id
)
on conflict do nothing
returning dead_letter_id

-- insert_outbox --
-- Ids are assigned in the order of the input, which is the order of the announcements.
insert into outbox (event_id, topic, record_id, dead_letter_id, site, published_at)
select
    event_id::uuid, topic, record_id::uuid, dead_letter_id::uuid, site,
    -- After a recovery, what an older copy of the catalog does not know to be out.
    (select now() from announced as a where a.event_id = o.event_id::uuid)
from rows from (
    json_array_elements_text($1::json), json_array_elements_text($2::json), json_array_elements_text($3::json),
    json_array_elements_text($4::json), json_array_elements_text($5::json)
) with ordinality as o (event_id, topic, record_id, dead_letter_id, site, position)
order by position

-- notify --
-- Not within the transaction: a notification takes a lock of the whole server until its commit is over.
-- Gateways hear of every commit, the relay of new rows of the outbox.
select pg_notify('headrace_ingested', ''), case when $1 then pg_notify('headrace_outbox', '') end

-- look_up --
-- Blobs, and tombstones: these have a site.
select sha256 as digest, size_bytes, media_type, store_key, store_offset, null as site, null as source_id
from blobs
where sha256 = any($1::bytea[])
union all
select digest, null, null, null, null, site, source_id
from tombstones
where digest = any($1::bytea[])

-- has_sighting --
select exists (select from sightings where record_id = $1 and site = $2 and source_id = $3)

-- originals --
-- The original positions of messages whose redrive was claimed.
select r.dead_letter_id, r.attempt, d.topic, d.partition, d."offset"
from redrives as r
join dead_letters as d using (dead_letter_id)
where r.dead_letter_id = any($1::uuid[])

-- end_redrives --
-- A redrive ends once, also if its message is delivered twice. Only one that became a record closes its dead letter.
with given as (
    select * from unnest($1::uuid[], $2::integer[], $3::uuid[], $4::text[], $5::text[])
        as g (dead_letter_id, attempt, record_id, code, reason)
), ended as (
    update redrives as r
    set ended_at = now(), record_id = g.record_id, code = g.code, reason = g.reason
    from given as g
    where r.dead_letter_id = g.dead_letter_id and r.attempt = g.attempt and r.ended_at is null
)
update dead_letters as d
set redriven_at = now(), record_id = g.record_id
from given as g
where d.dead_letter_id = g.dead_letter_id and g.record_id is not null and d.record_id is null

-- note_losses --
-- Counts grow with each report of a spool, so a repeated or an old one changes nothing. A spool's damaged events are of
-- any of its sources, and every source reports all of them.
with given as (
    select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
        as g (site, source_id, spool, dropped, damaged)
), before as (
    select
        g.*, coalesce(l.dropped, 0) as dropped_before,
        (select coalesce(max(o.damaged), 0) from source_losses as o where o.spool = g.spool) as damaged_before
    from given as g left join source_losses as l using (spool, site, source_id)
), written as (
    insert into source_losses as l (spool, site, source_id, dropped, damaged)
    select spool, site, source_id, dropped, damaged from given order by spool, site, source_id
    on conflict (spool, site, source_id) do update
    set dropped = greatest(l.dropped, excluded.dropped), damaged = greatest(l.damaged, excluded.damaged),
        reported_at = now()
    where excluded.dropped > l.dropped or excluded.damaged > l.damaged
)
select
    coalesce(sum(greatest(0, dropped - dropped_before)), 0)::bigint as dropped,
    (
        select coalesce(sum(greatest(0, s.damaged)), 0)::bigint
        from (select max(damaged) - max(damaged_before) as damaged from before group by spool) as s
    ) as damaged
from before

-- lock_shared --
-- See headrace/store/catalog/orphan_gc.py. A separate statement, so that the next one sees everything that was
-- committed before the lock was acquired.
select pg_advisory_xact_lock_shared($1)

-- collected --
select
    generation,
    exists (select from transfers) as has_transfers,
    array(select store_key from collecting where store_key = any($1::text[]) order by store_key) as marked
from collection

-- collection_epoch --
select generation, exists (select from tombstones) as has_tombstones from collection

-- recent_records --
select count(*) from records where kind = $1 and ingested_at > now() - $2::double precision * interval '1 second'

-- recent_dead_letters --
select site, source_id, key, count(*)
from (
    select site, source_id, case when site is null then coalesce(substring(key for $3::integer), '') end as key
    from dead_letters
    where (topic = $1 or right(topic, length($1) + 1) = '.' || $1) and code <> 'erased'
        and rejected_at > now() - $2::double precision * interval '1 second'
) as recent
group by site, source_id, key

-- check --
-- Fails if the schema does not exist or is not current: it reads columns and tables of the newest migrations.
select set_aside, generation, i.topic_id, m.next_offset, t.digest, w.priority, r.sequence, l.dropped, c.records, p.store_key
from
    outbox, collection, ingest_progress as i, tombstones as t, site_records as r, source_losses as l, record_counts as c,
    pack_copies as p, mirror_progress as m, transfers as w
where false
