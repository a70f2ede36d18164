-- Ingest requests of the gateway: file uploads and captures.

-- add --
insert into ingest_requests (request_id, kind, actor, site, source_id, state, asked, sealed)
values ($1, $2, $3, $4, $5, $6, $7::json, $8)

-- add_items --
insert into request_items (
    request_id, index, filename, kind, digest, media_type, size_bytes, width, height, exif, topic, partition, "offset",
    code, reason
)
select
    $1, index, filename, kind, decode(digest, 'hex'), media_type, size_bytes, width, height, exif::json,
    topic, partition, message_offset, code, reason
from unnest(
    $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::integer[], $9::integer[],
    $10::text[], $11::text[], $12::integer[], $13::bigint[], $14::text[], $15::text[]
) as i (
    index, filename, kind, digest, media_type, size_bytes, width, height, exif, topic, partition, message_offset,
    code, reason
)
on conflict (request_id, index) do nothing

-- request --
select
    request_id, kind, actor, site, source_id, state, reason, asked::text as asked, sealed, evidence::text as evidence,
    extract(epoch from created_at)::double precision as created_at_s,
    extract(epoch from updated_at)::double precision as updated_at_s
from ingest_requests
where request_id = $1

-- items --
select
    index, filename, kind, encode(digest, 'hex') as digest, media_type, size_bytes, width, height, exif::text as exif,
    topic, partition, "offset", code, reason
from request_items
where request_id = $1
order by index
limit $2

-- advance --
-- Only from an allowed previous state, so that a worker that lost its lease cannot change the request.
update ingest_requests
set state = $3, reason = $4, evidence = $5::json, updated_at = now()
where request_id = $1 and state = any($2::text[])
returning site, source_id

-- event --
insert into request_events (request_id, site, source_id, state, detail) values ($1, $2, $3, $4, $5::json)

-- order_events --
-- Held until the commit by each transaction that adds an event, so ids are in the order of the commits.
select pg_advisory_xact_lock($1)

-- events_after --
select
    id, request_id, site, source_id, state, detail::text as detail,
    extract(epoch from at)::double precision as at_s
from request_events
where id > $1
order by id
limit $2

-- newest_event --
select coalesce(max(id), 0) from request_events

-- expire --
with old as materialized (
    select request_id
    from ingest_requests
    where
        created_at < now() - $1::double precision * interval '1 day'
        -- A standing capture that no worker has taken up yet is still wanted.
        and (asked ->> 'standing' is distinct from 'true' or state in ('ingested', 'failed'))
    order by created_at, request_id
    limit $2
), items as (
    delete from request_items where request_id = any(array(select request_id from old))
), events as (
    delete from request_events where request_id = any(array(select request_id from old))
)
delete from ingest_requests where request_id = any(array(select request_id from old))

-- renew_lease --
-- Renews the lease of a request; no row if another worker has acquired it.
update ingest_requests
set updated_at = now(), evidence = $3::json
where request_id = $1 and evidence ->> 'worker' = $2 and state = any($4::text[])
returning true

-- release_expired_leases --
-- From here on the previous worker can no longer renew its lease.
update ingest_requests
set updated_at = now(), evidence = (evidence::jsonb || '{"worker": ""}')::json
where request_id in (
    select request_id
    from ingest_requests
    where kind = 'rtsp' and state = any($1::text[]) and updated_at < now() - $2::double precision * interval '1 second'
    order by created_at
    limit $3
    for update skip locked
)
returning request_id, evidence::text as evidence

-- unacquired --
-- Each is published again by one worker, and not again for the same time.
update ingest_requests
set updated_at = now()
where request_id in (
    select request_id
    from ingest_requests
    where kind = 'rtsp' and state = $1 and updated_at < now() - $2::double precision * interval '1 second'
    order by created_at
    limit $3
    for update skip locked
)
returning
    request_id, kind, actor, site, source_id, state, reason, asked::text as asked, sealed, evidence::text as evidence,
    extract(epoch from created_at)::double precision as created_at_s,
    extract(epoch from updated_at)::double precision as updated_at_s

-- standing --
-- The standing captures that are not removed, by site and source; of two of a source, both.
select
    request_id, kind, actor, site, source_id, state, reason, asked::text as asked, sealed, evidence::text as evidence,
    extract(epoch from created_at)::double precision as created_at_s,
    extract(epoch from updated_at)::double precision as updated_at_s
from ingest_requests
where
    kind = 'rtsp' and state = any($1::text[]) and asked ->> 'standing' = 'true'
    and ($2::text is null or site = $2) and ($3::text is null or source_id = $3)
order by site, source_id, created_at
limit $4
