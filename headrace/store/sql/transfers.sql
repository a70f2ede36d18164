-- Bodies that sites have ingested and that are not here yet. Every statement may be repeated.

-- add --
-- Those whose bytes are here already are announced at once.
insert into transfers (
    record_id, site, store_key, store_offset, digest, size_bytes, media_type, event_id, topic, is_further, priority
)
select
    t.record_id, t.site, t.store_key, t.store_offset, t.digest, t.size_bytes, t.media_type, t.event_id, t.topic,
    t.is_further, t.priority
from unnest(
    $1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::bigint[], $7::text[], $8::uuid[], $9::text[],
    $10::boolean[], $11::integer[]
) as t (
    record_id, site, store_key, store_offset, digest, size_bytes, media_type, event_id, topic, is_further, priority
)
where not exists (select from blobs as b where b.sha256 = t.digest)
order by t.record_id, t.site
on conflict do nothing
returning event_id

-- announce_arrived --
-- A record is ingested when its bytes are here.
with gone as (
    delete from transfers where digest = any($1::bytea[]) returning *
), dated as (
    update records as r
    set ingested_at = now()
    from gone as g
    where r.record_id = g.record_id and not g.is_further
), dated_at_sites as (
    update site_records as s
    set ingested_at = now()
    from gone as g
    where s.record_id = g.record_id and s.site = g.site and g.is_further
)
insert into outbox (event_id, topic, record_id, site, published_at)
select
    g.event_id, g.topic, g.record_id, case when g.is_further then g.site end,
    (select now() from announced as a where a.event_id = g.event_id)
from gone as g
join records using (record_id)
order by g.noted_at, g.record_id, g.site

-- next --
select record_id, site, store_key, store_offset, digest, size_bytes, media_type, requested_at is not null as requested
from transfers as t
where site = $1 and (retry_at is null or retry_at <= now()) and (requested_at is not null or not $2::boolean)
    and exists (select from records as r where r.record_id = t.record_id)
order by requested_at is null, requested_at, priority, size_bytes, noted_at, record_id
limit 1

-- next_packed --
-- Those that go into one pack: small bodies of the first priorities, which nobody has asked for.
select record_id, site, store_key, store_offset, digest, size_bytes, media_type, false as requested
from transfers as t
where site = $1 and (retry_at is null or retry_at <= now()) and requested_at is null and priority <= 1 and size_bytes < $2
    and exists (select from records as r where r.record_id = t.record_id)
order by priority, size_bytes, noted_at, record_id
limit $3

-- request --
update transfers set requested_at = coalesce(requested_at, now()), retry_at = null where record_id = $1

-- is_requested --
select exists (
    select from transfers
    where site = $1 and digest <> $2 and requested_at is not null and (retry_at is null or retry_at <= now())
)

-- postpone --
update transfers
set why = $3, retry_at = now() + $4::double precision * interval '1 second'
where site = $1 and digest = $2

-- set_clip --
-- An announcement does not say which clip belongs to an LDO: its bytes do.
update records set clip_sha256 = $2 where record_id = $1 and clip_sha256 is null

-- drop --
delete from transfers where digest = $1

-- of_digest --
select
    record_id, site, size_bytes, (extract(epoch from noted_at) * 1000000)::bigint as noted_at_us,
    (extract(epoch from requested_at) * 1000000)::bigint as requested_at_us, why
from transfers
where digest = $1
order by noted_at, site

-- waiting --
select site, count(*) as bodies, coalesce(sum(size_bytes), 0)::bigint as bytes
from transfers
group by site
order by site

-- notify --
select pg_notify('headrace_transfers', '')
