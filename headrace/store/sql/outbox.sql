-- The relay's side of the catalog. Times come out as microseconds since 1970; numeric keeps them exact.

-- pending --
-- As many of a topic's rows as fit into $2 bytes, at least one; the length of a value is known without reading it. A row
-- whose record, blob or dead letter was deleted is included, with nulls, so that it can be skipped and does not block the
-- rows after it.
select * from (
    select
        o.id, o.event_id, o.topic,
        r.record_id, r.kind, r.digest, said.site, said.source_id,
        (extract(epoch from said.captured_at) * 1000000)::bigint as captured_at_us, said.sequence,
        (extract(epoch from said.ingested_at) * 1000000)::bigint as ingested_at_us,
        r.media_type, r.size_bytes, b.store_key, b.store_offset, r.width, r.height, r.duration_us, r.ldo_id, r.code,
        said.about, said.attributes::text as attributes, said.traceparent,
        d.dead_letter_id, d.code as reject_code, d.reason, d.topic as message_topic, d.partition,
        d."offset" as message_offset, d.message_timestamp_us, d.key, d.value, d.headers::text as headers,
        (extract(epoch from d.rejected_at) * 1000000)::bigint as rejected_at_us,
        sum(
            coalesce(octet_length(d.value), 0) + coalesce(octet_length(d.key), 0)
            + coalesce(octet_length(d.headers::text), 0) + coalesce(octet_length(said.attributes::text), 0)
        ) over (order by o.id) as bytes,
        row_number() over (order by o.id) as position
    from (
        select id, event_id, topic, record_id, dead_letter_id, site
        from outbox
        where published_at is null and topic = $3
        order by id
        limit $1
    ) as o
    left join records as r using (record_id)
    -- What the record's own site said of it, or a further one.
    left join lateral (
        select r.site, r.source_id, r.captured_at, r.sequence, r.ingested_at, r.about, r.attributes, r.traceparent
        where o.site is null
        union all
        select site, source_id, captured_at, sequence, ingested_at, about, attributes, traceparent
        from site_records as s
        where s.record_id = o.record_id and s.site = o.site
    ) as said on true
    left join blobs as b on b.sha256 = r.digest
    left join dead_letters as d using (dead_letter_id)
) as next
where bytes <= $2 or position = 1
order by id

-- mark --
update outbox
set published_at = now()
where published_at is null and id = any($1::bigint[])

-- save_checkpoints --
insert into relay_checkpoints (topic, partition, next_offset)
select * from unnest($1::text[], $2::integer[], $3::bigint[])
on conflict (topic, partition) do update set next_offset = excluded.next_offset

-- set_aside --
update outbox as o
set published_at = now(), set_aside = g.why
from unnest($1::bigint[], $2::text[]) as g (id, why)
where o.published_at is null and o.id = g.id

-- set_aside_rows --
select count(*) from outbox where set_aside is not null

-- listed_set_aside --
select
    id, event_id, topic, record_id, dead_letter_id,
    (extract(epoch from published_at) * 1000000)::bigint as set_aside_at_us, set_aside
from outbox
where set_aside is not null
order by id desc
limit $1

-- retry_set_aside --
with retried as (
    update outbox set published_at = null, set_aside = null where set_aside is not null returning id
)
select count(*) from retried

-- notify --
select pg_notify('headrace_outbox', '')

-- mark_seen --
update outbox
set published_at = now()
where published_at is null and topic = $2 and event_id = any($1::uuid[])

-- known_records --
-- A record's announcement is in the outbox since the record is in the catalog.
select record_id, null as site from records where record_id = any($1::uuid[])
union all
select record_id, site from site_records where record_id = any($1::uuid[])

-- known_letters --
select d.dead_letter_id
from unnest($1::text[], $2::integer[], $3::bigint[]) as m (topic, partition, message_offset)
join dead_letters as d on d.topic = m.topic and d.partition = m.partition and d."offset" = m.message_offset

-- known_others --
select event_id from outbox where event_id = any($1::uuid[])

-- learned --
select event_id from announced where event_id = any($1::uuid[])
union all
select event_id from erased_announcements where event_id = any($1::uuid[])

-- checkpoints --
select topic, partition, next_offset from relay_checkpoints

-- unpublished --
select count(*) from outbox where published_at is null

-- try_lock --
select pg_try_advisory_lock($1)
