-- Requests for captures, as the capture workers keep each other's.

-- beat --
-- Says that its worker is at it; nobody is there to say so for a request that was given to another.
update ingest_requests
set updated_at = now(), evidence = $3::json
where request_id = $1 and evidence ->> 'worker' = $2 and state = any($4::text[])
returning true

-- take_from_silent --
-- From here on the silent worker's own beats do not count, should it come back.
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

-- untold --
-- Each is told by one worker, and not again for as long.
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
