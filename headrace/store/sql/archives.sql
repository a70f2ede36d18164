-- Statements of archive and restore; see headrace/store/catalog/archives.py.

-- due --
-- Oldest first, by the index of the kind. The page is limited before the join, so a page after years of archived records
-- is as fast as the first; each blob is looked up by its key. The last record of the page is always returned, because the
-- next page begins after it.
with page as materialized (
    select record_id, digest, ingested_at
    from records
    where kind = $1
        and ingested_at < timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
        and (ingested_at, record_id) > (timestamptz 'epoch' + $3::bigint * interval '1 microsecond', $4::uuid)
    order by ingested_at, record_id
    limit $6
)
select
    p.record_id, (extract(epoch from p.ingested_at) * 1000000)::bigint as ingested_at_us,
    b.sha256, b.size_bytes, b.media_type, b.store_key, b.store_offset
from page as p
left join lateral (
    select sha256, size_bytes, media_type, store_key, store_offset
    from blobs
    where sha256 = p.digest
        and archived_at is null
        and (restored_at is null or restored_at < now() - $5::double precision * interval '1 day')
    limit 1
) as b on true
where b.sha256 is not null
    or (p.ingested_at, p.record_id) = (
        select ingested_at, record_id from page order by ingested_at desc, record_id desc limit 1
    )
order by p.ingested_at, p.record_id

-- further_sites --
select record_id, site from site_records where record_id = any($1::uuid[])

-- unannounced --
select event_id from outbox where published_at is null and event_id = any($1::uuid[])

-- owners --
select digest, kind, (extract(epoch from ingested_at) * 1000000)::bigint as ingested_at_us
from records
where record_id = any($1::uuid[])

-- now --
select (extract(epoch from now()) * 1000000)::bigint

-- archived --
select r.record_id, b.sha256, b.size_bytes, b.media_type, b.store_key, b.store_offset
from records as r
join blobs as b on b.sha256 = r.digest
where b.archived_at is not null
    and r.record_id > $1
    and ($2::text[] is null or r.kind = any($2))
    and ($3::text[] is null or r.site = any($3))
    and ($4::text[] is null or r.source_id = any($4))
    and ($5::bigint is null or r.captured_at >= timestamptz 'epoch' + $5 * interval '1 microsecond')
    and ($6::bigint is null or r.captured_at < timestamptz 'epoch' + $6 * interval '1 microsecond')
    and ($7::uuid[] is null or r.record_id = any($7))
order by r.record_id
limit $8

-- expect --
insert into leavings (place, store_key) values ($1, $2) on conflict do nothing

-- to_archive --
-- A row that was moved in the meantime is not changed. A pack may stay for others, with the bytes that were moved.
with copies as (
    insert into pack_copies (place, store_key, digest)
    select 'store', store_key, sha256
    from blobs
    where sha256 = any($2::bytea[]) and store_offset is not null and archived_at is null
    on conflict do nothing
)
update blobs as b
set store_key = $1, store_offset = m.store_offset, archived_at = now(), restored_at = null
from unnest($2::bytea[], $3::bigint[]) as m (sha256, store_offset)
where b.sha256 = m.sha256 and b.archived_at is null

-- to_store --
with copies as (
    insert into pack_copies (place, store_key, digest)
    select 'archive', store_key, sha256
    from blobs
    where sha256 = any($2::bytea[]) and store_offset is not null and archived_at is not null
    on conflict do nothing
)
update blobs as b
set store_key = $1, store_offset = m.store_offset, archived_at = null, restored_at = now()
from unnest($2::bytea[], $3::bigint[]) as m (sha256, store_offset)
where b.sha256 = m.sha256 and b.archived_at is not null

-- leave --
insert into leavings (place, store_key)
select $1, unnest($2::text[])
on conflict do nothing

-- settled --
delete from leavings where place = $1 and store_key = $2

-- forget_copies --
delete from pack_copies where place = $1 and store_key = $2

-- free --
-- The leavings, and whether no row refers to each.
select l.place, l.store_key, not exists (
    select from blobs_of(l.store_key) as b where (b.archived_at is not null) = (l.place = 'archive')
) as is_free
from leavings as l

-- size --
select sum(pg_total_relation_size(c.oid))::bigint
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind = 'r'

-- set_lock_timeout --
select set_config('lock_timeout', $1, false)

-- fill --
-- The bytes of a table on disk, and how many of them its rows take, by its statistics; a row's header and pointer are
-- 28.
select pg_relation_size(c.oid), (c.reltuples * (28 + coalesce(sum(s.avg_width * (1 - s.null_frac)), 0)))::bigint
from pg_class as c
left join pg_stats as s on s.schemaname = 'public' and s.tablename = c.relname
where c.relnamespace = 'public'::regnamespace and c.relname = $1
group by c.oid, c.reltuples

-- vacuum_outbox --
vacuum (analyze) outbox

-- vacuum_blobs --
vacuum (analyze) blobs

-- shrink_outbox --
vacuum (full, analyze) outbox

-- shrink_blobs --
vacuum (full, analyze) blobs
