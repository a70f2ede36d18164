-- Resumable uploads. The writer of one holds its lock: `held_by` until `held_until`. The metadata of a partial upload
-- have "concat": "partial", those of a final one the ids of its partial uploads as "partials".

-- add --
insert into uploads (upload_id, actor, site, source_id, length_bytes, metadata, expires_at)
select $1, $2::text, $3, $4, $5::bigint, $6::json, now() + $7::double precision * interval '1 hour'
where (
    select count(*) from uploads where actor = $2::text and state in ('open', 'joining') and expires_at > now()
) < $8::bigint
returning extract(epoch from expires_at)::double precision

-- upload --
select
    upload_id, actor, site, source_id, length_bytes, offset_bytes, metadata::text as metadata,
    metadata->>'concat' as concat, state, code, reason,
    coalesce(held_until > now(), false) as is_held, expires_at <= now() as is_expired,
    extract(epoch from expires_at)::double precision as expires_at_s
from uploads
where upload_id = $1

-- hold --
update uploads
set held_by = $2, held_until = now() + $3::double precision * interval '1 second'
where upload_id = $1 and state in ('open', 'joining') and expires_at > now()
    and coalesce(held_until <= now(), true)
returning
    upload_id, actor, site, source_id, length_bytes, offset_bytes, metadata::text as metadata,
    metadata->>'concat' as concat, state, code, reason,
    true as is_held, false as is_expired, extract(epoch from expires_at)::double precision as expires_at_s

-- renew --
update uploads
set held_until = now() + $3::double precision * interval '1 second'
where upload_id = $1 and held_by = $2
returning upload_id

-- release --
update uploads set held_by = null, held_until = null where upload_id = $1 and held_by = $2

-- record --
-- Adds the parts and advances the offset, only if the caller still holds the lock and the offset is the one it expects.
with moved as (
    update uploads
    set offset_bytes = offset_bytes + $4::bigint,
        state = case
            when offset_bytes + $4::bigint = length_bytes and coalesce(metadata->>'concat', '') <> 'partial' then 'joining'
            else state
        end
    where upload_id = $1 and held_by = $2 and offset_bytes = $3::bigint and state = 'open'
        and (length_bytes is null or offset_bytes + $4::bigint <= length_bytes)
    returning upload_id
), added as (
    insert into upload_parts (upload_id, offset_bytes, size_bytes, store_key)
    select moved.upload_id, p.offset_bytes, p.size_bytes, p.store_key
    from moved, unnest($5::bigint[], $6::bigint[], $7::text[]) as p (offset_bytes, size_bytes, store_key)
)
select upload_id from moved

-- set_length --
-- Sets a deferred length once, to no less than what is there.
update uploads
set length_bytes = $3::bigint,
    state = case
        when offset_bytes = $3::bigint and coalesce(metadata->>'concat', '') <> 'partial' then 'joining'
        else state
    end
where upload_id = $1 and held_by = $2 and length_bytes is null and state = 'open' and offset_bytes <= $3::bigint
returning upload_id

-- complete_partials --
-- The partial uploads of the list that have all their bytes, locked against their deletion, in one order for all.
select upload_id
from uploads
where upload_id = any($1::uuid[]) and state = 'open' and offset_bytes = length_bytes and expires_at > now()
    and metadata->>'concat' = 'partial'
order by upload_id
for update

-- add_final --
insert into uploads (
    upload_id, actor, site, source_id, length_bytes, offset_bytes, metadata, state, expires_at
)
select $1, $2::text, $3, $4, $5::bigint, $5::bigint, $6::json, 'joining', now() + $7::double precision * interval '1 hour'
where (
    select count(*) from uploads where actor = $2::text and state = 'joining' and expires_at > now()
) < $8::bigint
on conflict (upload_id) do nothing
returning upload_id

-- copy_parts --
-- The parts of partial uploads, in the order of the list, become those of the final one.
insert into upload_parts (upload_id, offset_bytes, size_bytes, store_key)
select
    $1, sum(p.size_bytes) over (order by listed.position, p.offset_bytes) - p.size_bytes, p.size_bytes, p.store_key
from unnest($2::uuid[]) with ordinality as listed (upload_id, position)
join upload_parts as p on p.upload_id = listed.upload_id

-- keep_partials --
update uploads as u
set expires_at = greatest(u.expires_at, f.expires_at)
from uploads as f
where u.upload_id = any($2::uuid[]) and f.upload_id = $1

-- partials_of --
-- Locks the partial uploads of a final one.
select upload_id
from uploads
where upload_id in (
    select json_array_elements_text(f.metadata->'partials')::uuid from uploads as f where f.upload_id = $1
)
order by upload_id
for update

-- release_partials --
-- Partial uploads of a final one that has ended, unless another one is about to read them.
with ended as (
    update uploads as u
    set state = 'done'
    where u.upload_id = any($2::uuid[]) and u.state = 'open' and not exists (
        select from uploads as f
        where f.state = 'joining' and f.upload_id <> $1
            and u.upload_id in (select json_array_elements_text(f.metadata->'partials')::uuid)
    )
    returning u.upload_id
), dropped as (
    delete from upload_parts using ended where upload_parts.upload_id = ended.upload_id
)
select upload_id from ended

-- part_count --
select count(*) from upload_parts where upload_id = $1

-- parts --
select offset_bytes, size_bytes, store_key from upload_parts where upload_id = $1 order by offset_bytes

-- finish --
with ended as (
    update uploads
    set state = 'done', digest = decode($3, 'hex'), topic = $4, partition = $5, "offset" = $6
    where upload_id = $1 and held_by = $2
    returning upload_id
), dropped as (
    delete from upload_parts using ended where upload_parts.upload_id = ended.upload_id
)
select upload_id from ended

-- fail --
with ended as (
    update uploads
    set state = 'failed', code = $3, reason = $4
    where upload_id = $1 and held_by = $2
    returning upload_id
), dropped as (
    delete from upload_parts using ended where upload_parts.upload_id = ended.upload_id
)
select upload_id from ended

-- lock --
select upload_id from uploads where upload_id = $1 for update

-- delete --
-- Not while the upload is assembled, or a final upload of which it is a part: its file may be about to be published. A
-- writer learns of the deletion when it records its next part.
with gone as (
    delete from uploads as u
    where u.upload_id = $1 and not (u.state = 'joining' and coalesce(u.held_until > now(), false))
        and not exists (
            select from uploads as f
            where f.state = 'joining' and u.upload_id in (select json_array_elements_text(f.metadata->'partials')::uuid)
        )
    returning u.upload_id
), dropped as (
    delete from upload_parts using gone where upload_parts.upload_id = gone.upload_id
)
select upload_id from gone

-- delete_expired --
with gone as (
    delete from uploads
    where upload_id = $1 and expires_at <= now() and coalesce(held_until <= now(), true)
    returning upload_id
), dropped as (
    delete from upload_parts using gone where upload_parts.upload_id = gone.upload_id
)
select upload_id from gone

-- expired --
select upload_id
from uploads
where expires_at <= now() and coalesce(held_until <= now(), true)
order by expires_at
limit $1

-- unassembled --
select upload_id
from uploads
where state = 'joining' and expires_at > now() and coalesce(held_until <= now(), true)
order by expires_at
limit $1

-- try_lock --
select pg_try_advisory_lock($1)

-- unlock --
select pg_advisory_unlock($1)
