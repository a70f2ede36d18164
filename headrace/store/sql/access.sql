-- API keys of the gateway, its audit log, and the responses stored under an Idempotency-Key.

-- find_key --
select key_id, name, role, sources, secret_sha256, previous_sha256,
    previous_until > now() as previous_is_good,
    revoked_at is not null as revoked, coalesce(expires_at <= now(), false) as expired
from api_keys
where key_id = $1

-- list_keys --
select key_id, name, role, sources, created_at, expires_at, revoked_at
from api_keys
order by created_at, key_id

-- A key and its audit row are written by one statement: no change of a key goes unrecorded.

-- add_key --
with added as (
    insert into api_keys (key_id, name, role, sources, secret_sha256, expires_at)
    values ($1, $2, $3, $4, $5, now() + $6::double precision * interval '1 day')
    on conflict (key_id) do nothing
    returning key_id
)
insert into audit (actor, action) select $7, 'keys add ' || key_id from added returning id

-- rotate_key --
with rotated as (
    update api_keys
    set previous_sha256 = secret_sha256, previous_until = now() + $3::double precision * interval '1 hour',
        secret_sha256 = $2
    where key_id = $1 and revoked_at is null
    returning key_id
)
insert into audit (actor, action) select $4, 'keys rotate ' || key_id from rotated returning id

-- revoke_key --
with revoked as (
    update api_keys set revoked_at = coalesce(revoked_at, now()) where key_id = $1 returning key_id
)
insert into audit (actor, action) select $2, 'keys revoke ' || key_id from revoked returning id

-- audit --
insert into audit (at, actor, address, action, code, request_id, count)
select to_timestamp(at_s), actor, address, action, code, request_id, count
from unnest($1::double precision[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
    as a (at_s, actor, address, action, code, request_id, count)

-- list_audit --
select extract(epoch from at)::double precision, actor, address, action, code, request_id, count
from audit
where at >= now() - $1::double precision * interval '1 hour'
    and ($2::text is null or actor = $2) and ($3::text is null or address = $3)
order by at desc, id desc
limit $4

-- expire_audit --
delete from audit
where ctid = any(array(
    select ctid from audit where at < now() - $1::double precision * interval '1 day' order by at, id limit $2
))

-- claim_answer --
-- The first request inserts the row; later ones read it. A row that its gateway no longer renews is taken over; created_at
-- identifies the owner.
insert into idempotency (actor, key) values ($1, $2)
on conflict (actor, key) do update set created_at = now(), alive_at = now(), fingerprint = null
where idempotency.status is null and idempotency.alive_at < now() - $3::double precision * interval '1 second'
returning created_at

-- renew_claim --
update idempotency set alive_at = now() where actor = $1 and key = $2 and created_at = $3 and status is null

-- answer_of --
select fingerprint, status, answer::text as answer, location from idempotency where actor = $1 and key = $2

-- keep_answer --
update idempotency set fingerprint = $3, status = $4, answer = $5::json, location = $6
where actor = $1 and key = $2 and created_at = $7

-- drop_answer --
delete from idempotency where actor = $1 and key = $2 and created_at = $3 and status is null

-- expire_answers --
delete from idempotency
where ctid = any(array(
    select ctid
    from idempotency
    where created_at < now() - $1::double precision * interval '1 hour'
    order by created_at
    limit $2
))
