-- The records of an export, by id. Ids are random, so shards are shuffled, and a page is found by the primary key.
-- Words in braces are replaced by parts of queries.sql.

-- page --
select {columns}, encode(c.sha256, 'hex') as clip_digest, c.size_bytes, c.media_type, c.store_key, c.store_offset,
    (extract(epoch from c.archived_at) * 1000000)::bigint as clip_archived_at_us,
    l.label, encode(r.clip_sha256, 'hex') as clip_sha256
from records as r
left join blobs as b on b.sha256 = r.digest
-- A clip may be ingested after its LDO; an export up to an earlier time has the LDO alone, also when it is repeated.
left join blobs as c
    on c.sha256 = r.clip_sha256 and c.created_at < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
left join labels as l
    on l.version = $10 and l.record_id = r.record_id
    and l.labelled_at < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
where {selected} and ($10::text is null or l.label is not null)
order by r.record_id
limit $9

-- selected --
r.record_id > $1 and r.record_id <= $2
    and r.ingested_at < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
    and ($4::text[] is null or r.kind = any($4))
    and ($5::text[] is null or r.site = any($5))
    and ($6::text[] is null or r.source_id = any($6))
    and ($7::bigint is null or r.captured_at >= timestamptz 'epoch' + $7 * interval '1 microsecond')
    and ($8::bigint is null or r.captured_at < timestamptz 'epoch' + $8 * interval '1 microsecond')
    -- Once its bytes are here, it has a later time.
    and not exists (select from transfers as t where t.record_id = r.record_id)

-- settled_until --
-- A record's time is the start of its transaction, so a transaction in progress may still add records from before now.
-- Transactions of Headrace end within minutes; longer ones of others are ignored. PostgreSQL hides start and type of
-- other users' sessions from whoever is not a member of pg_read_all_stats, but not their application.
select
    (
        extract(epoch from least(now(), min(xact_start) filter (
            where backend_type = 'client backend' and xact_start > now() - interval '10 minutes'
        ))) * 1000000
    )::bigint as until_us,
    count(*) filter (where backend_type is null and application_name like 'headrace%') as hidden
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()

-- begin_run --
-- Returns whether another export was there before: one that reached to another time, or selected something else.
with wanted as (
    select
        $1::text as host, $2::text as target, $3::text as format,
        $4::text[] as kinds, $5::text[] as sites, $6::text[] as source_ids,
        timestamptz 'epoch' + $7::bigint * interval '1 microsecond' as captured_from,
        timestamptz 'epoch' + $8::bigint * interval '1 microsecond' as captured_until,
        timestamptz 'epoch' + $9::bigint * interval '1 microsecond' as ingested_until,
        $10::double precision as validation_share
), begun as (
    insert into export_runs (
        host, target, format, kinds, sites, source_ids, captured_from, captured_until, ingested_until, validation_share
    )
    select * from wanted
    on conflict (host, target) do update
    set format = excluded.format, kinds = excluded.kinds, sites = excluded.sites, source_ids = excluded.source_ids,
        captured_from = excluded.captured_from, captured_until = excluded.captured_until,
        ingested_until = excluded.ingested_until, validation_share = excluded.validation_share, ended_at = null
)
select exists (
    select from export_runs as e
    join wanted as w using (host, target)
    where (
            e.format, e.kinds, e.sites, e.source_ids,
            e.captured_from, e.captured_until, e.ingested_until, e.validation_share
        ) is distinct from (
            w.format, w.kinds, w.sites, w.source_ids,
            w.captured_from, w.captured_until, w.ingested_until, w.validation_share
        )
)

-- forget_shards --
delete from export_shards where host = $1 and target = $2

-- add_shard --
insert into export_shards (host, target, name, split, first_id, last_id) values ($1, $2, $3, $4, $5, $6)
on conflict (host, target, name) do update
set split = excluded.split, first_id = excluded.first_id, last_id = excluded.last_id

-- end_run --
update export_runs set ended_at = now() where host = $1 and target = $2
