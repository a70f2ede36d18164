-- The read side. Times are returned as microseconds since 1970; numeric keeps them exact.
-- Words in braces are replaced by the fixed parts at the end of this file, never by user input.

-- page --
-- Newest first, with keyset pagination, so the last page is as fast as the first. Each driver row (a kind, or a kind of
-- a source) has an index that gives the keys of its newest records; the page is merged from those, and only its records
-- are read.
select {columns}
from (
    select found.ingested_at, found.record_id
    from {driver}
    cross join lateral (
        select r.ingested_at, r.record_id
        from records as r
        where {conditions}
        order by r.ingested_at desc, r.record_id desc
        limit $1
    ) as found
    order by found.ingested_at desc, found.record_id desc
    limit $1
) as key
join records as r using (record_id)
left join blobs as b on b.sha256 = r.digest
order by key.ingested_at desc, key.record_id desc

-- page_of_sources --
-- The same for sources, which also list what another site delivered first, as they delivered it.
select {sighted_columns}
from (
    select found.ingested_at, found.record_id, null::text as sighted_at
    from {driver}
    cross join lateral (
        select r.ingested_at, r.record_id
        from records as r
        where {conditions}
        order by r.ingested_at desc, r.record_id desc
        limit $1
    ) as found
    union all
    select found.ingested_at, found.record_id, found.site as sighted_at
    from {sighted_driver}
    cross join lateral (
        select r.ingested_at, r.record_id, r.site
        from (
            select s.ingested_at, s.record_id, s.site, s.source_id, of_record.kind, of_record.ldo_id, of_record.code
            from site_records as s
            join records as of_record on of_record.record_id = s.record_id and of_record.site <> s.site
        ) as r
        where {sighted_conditions}
        order by r.ingested_at desc, r.record_id desc
        limit $1
    ) as found
    order by 1 desc, 2 desc
    limit $1
) as key
join records as r using (record_id)
left join site_records as s on s.record_id = key.record_id and s.site = key.sighted_at
left join blobs as b on b.sha256 = r.digest
order by key.ingested_at desc, key.record_id desc

-- by_ids --
select {columns}
from records as r
left join blobs as b on b.sha256 = r.digest
where r.record_id = any($1::uuid[])
order by r.ingested_at desc, r.record_id desc

-- ids_between --
select record_id
from records as r
where
    record_id between $1 and $3
    and (
        $2::text[] is null or {within}
        or exists (select from sightings as s where s.record_id = r.record_id and {sighting_within})
    )
order by record_id
limit $4

-- digests_between --
select sha256 from blobs where sha256 between $1 and $2 and sha256 > $3 order by sha256 limit $4

-- captured_within_second --
select r.record_id
from records as r
where
    r.record_id = any($1::uuid[])
    and r.captured_at >= timestamptz 'epoch' + $3::bigint * interval '1 second'
    and r.captured_at < timestamptz 'epoch' + ($3::bigint + 1) * interval '1 second'
    and (
        $2::text[] is null or {within}
        or exists (select from sightings as s where s.record_id = r.record_id and {sighting_within})
    )
order by r.record_id

-- newest_by_ldo_id --
select record_id
from records as r
where ldo_id = $1 and ($2::text[] is null or {within})
order by ingested_at desc, record_id desc
limit 1

-- newest_by_code --
select record_id
from records as r
where code = $1 and ($2::text[] is null or {within})
order by ingested_at desc, record_id desc
limit 1

-- reached --
-- A record is visible through its own source, and through every source that delivered the same bytes.
select r.record_id, {within} as is_own
from records as r
where r.record_id = any($1::uuid[]) and (
    {within} or exists (select from sightings as s where s.record_id = r.record_id and {sighting_within})
)
order by r.record_id

-- blob --
select
    sha256, size_bytes, media_type, store_key, store_offset,
    (extract(epoch from archived_at) * 1000000)::bigint as archived_at_us
from blobs
where sha256 = $1

-- sightings --
select
    topic, partition, "offset", index, record_id, site, source_id,
    (extract(epoch from captured_at) * 1000000)::bigint as captured_at_us, sequence,
    (extract(epoch from seen_at) * 1000000)::bigint as seen_at_us, mirrored_offset
from sightings as r
where record_id = $1 and ($3::text[] is null or {within})
order by seen_at, topic, partition, "offset", index
limit $2

-- count_records --
select kind, sum(records)::bigint from record_counts group by kind order by kind

-- count_sightings --
-- Each source counts its new sightings.
select coalesce(sum(deliveries), 0)::bigint from sources

-- count_dead_letters --
select code, count(*) from dead_letters group by code order by code

-- count_unpublished --
select count(*) from outbox where published_at is null

-- columns --
r.record_id, r.kind, encode(r.digest, 'hex') as digest, r.site, r.source_id,
(extract(epoch from r.captured_at) * 1000000)::bigint as captured_at_us, r.sequence,
(extract(epoch from r.ingested_at) * 1000000)::bigint as ingested_at_us,
r.media_type, r.size_bytes, b.store_key, b.store_offset, r.width, r.height, r.duration_us, r.ldo_id, r.code, r.about,
r.attributes::text as attributes, r.traceparent, (extract(epoch from b.archived_at) * 1000000)::bigint as archived_at_us

-- sighted_columns --
r.record_id, r.kind, encode(r.digest, 'hex') as digest,
coalesce(s.site, r.site) as site, coalesce(s.source_id, r.source_id) as source_id,
(extract(epoch from coalesce(s.captured_at, r.captured_at)) * 1000000)::bigint as captured_at_us,
coalesce(s.sequence, r.sequence) as sequence, (extract(epoch from key.ingested_at) * 1000000)::bigint as ingested_at_us,
r.media_type, r.size_bytes, b.store_key, b.store_offset, r.width, r.height, r.duration_us, r.ldo_id, r.code,
case when s.site is null then r.about else s.about end as about,
case when s.site is null then r.attributes else s.attributes end::text as attributes,
case when s.site is null then r.traceparent else s.traceparent end as traceparent,
(extract(epoch from b.archived_at) * 1000000)::bigint as archived_at_us

-- within --
(
    -- A scope's site ends at its first slash; a site that holds one itself is in no scope.
    strpos({of}.site, '/') = 0
    and ({of}.site || '/' || {of}.{source} = any({scopes}::text[]) or {of}.site || '/*' = any({scopes}::text[]))
)

-- every_kind --
unnest(array['cid', 'frame', 'clip', 'ldo']) as wanted (kind)

-- every_kind_of_source --
record_counts as wanted

-- every_source --
sources as wanted

-- nothing_more --
(select 1) as wanted
