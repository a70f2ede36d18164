-- What the catalog announced: each record as its own site said it, and as each further site did. The outbox forgets what
-- is published; these statements do not need it. Words in braces are replaced by parts of this file.

-- announced --
-- The two conditions in braces select the rows. A record that an erasure gave to a further site has that site's row.
select
    r.record_id, r.kind, r.digest, null::text collate "C" as further, r.site, r.source_id, r.captured_at, r.sequence,
    r.ingested_at, r.media_type, r.size_bytes, r.width, r.height, r.duration_us, r.ldo_id, r.code, r.about,
    r.attributes, r.traceparent
from records as r
where {of_record}
    and not exists (select from site_records as n where n.record_id = r.record_id and n.site = r.site)
union all
select
    r.record_id, r.kind, r.digest, n.site, n.site, n.source_id, n.captured_at, n.sequence,
    n.ingested_at, r.media_type, r.size_bytes, r.width, r.height, r.duration_us, r.ldo_id, r.code, n.about,
    n.attributes, n.traceparent
from site_records as n
join records as r using (record_id)
where {of_site}

-- columns --
said.record_id, said.kind, said.digest, said.further, said.site, said.source_id,
(extract(epoch from said.captured_at) * 1000000)::bigint as captured_at_us, said.sequence,
(extract(epoch from said.ingested_at) * 1000000)::bigint as ingested_at_us,
said.media_type, said.size_bytes, b.store_key, b.store_offset,
(extract(epoch from b.archived_at) * 1000000)::bigint as archived_at_us,
said.width, said.height, said.duration_us, said.ldo_id, said.code,
said.about, said.attributes::text as attributes, said.traceparent

-- window_end --
-- The end of a window of about $4 rows; null where what is left is smaller.
select (extract(epoch from least(
    (
        select ingested_at
        from records
        where kind = $1 and ingested_at >= timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
            and ingested_at < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
        order by ingested_at
        offset $4 - 1
        limit 1
    ),
    (
        select ingested_at
        from site_records
        where ingested_at >= timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
            and ingested_at < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
        order by ingested_at
        offset $4 - 1
        limit 1
    )
)) * 1000000)::bigint as ends_us

-- window --
-- With the position of the first delivery, which orders what one transaction recorded. Left out is what is not
-- announced, or was not before $4.
select {columns}, s.topic, s.partition, s."offset", s.index
from ({announced}) as said
join blobs as b on b.sha256 = said.digest
left join lateral (
    select topic, partition, "offset", index
    from sightings as s
    where s.record_id = said.record_id and s.site = said.site and s.source_id = said.source_id
    order by seen_at, topic, partition, "offset", index
    limit 1
) as s on true
where not exists (
    select from outbox as o
    where o.created_at = said.ingested_at and o.record_id = said.record_id and o.site is not distinct from said.further
        and (
            o.published_at is null or o.set_aside is not null
            or o.published_at >= timestamptz 'epoch' + $4::bigint * interval '1 microsecond'
        )
)

-- window_of_record --
r.kind = $1 and r.ingested_at >= timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
    and r.ingested_at < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'

-- window_of_site --
r.kind = $1 and n.ingested_at >= timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
    and n.ingested_at < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'

-- point --
-- PostgreSQL's time, taken after the snapshot: what lies below a checkpoint of it was marked before.
select topic, partition, next_offset, (extract(epoch from clock_timestamp()) * 1000000)::bigint as at_us
from (select 1) as always
left join relay_checkpoints on topic = $1

-- now --
select (extract(epoch from clock_timestamp()) * 1000000)::bigint

-- is_rebuilding --
-- Whether a process rebuilds a topic. The lock's number has 32 bits.
select exists (
    select from pg_locks
    where locktype = 'advisory' and granted and classid = 0 and objid = $1::bigint::oid and objsubid = 1
        and database = (select oid from pg_database where datname = current_database())
)
