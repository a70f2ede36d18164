-- What `headrace recover` writes; every statement may be repeated.

-- begin --
update installation set recovering_since = coalesce(recovering_since, now())

-- restore_identity --
-- For a catalog from before it had an identity.
insert into installation (installation_id, epoch, system_identifier, timeline, kafka_cluster_id, complete)
select
    $1, 0, s.system_identifier::text,
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer, $2, true
from pg_control_system() as s
on conflict do nothing

-- add_target --
insert into recovery_targets (topic, partition, next_offset)
values ($1, $2, $3)
on conflict (topic, partition) do update
set next_offset = greatest(recovery_targets.next_offset, excluded.next_offset)

-- learn --
insert into announced (event_id)
select unnest($1::uuid[])
on conflict do nothing

-- learn_blobs --
insert into blobs (sha256, size_bytes, media_type, store_key, store_offset)
select * from unnest($1::bytea[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
on conflict do nothing

-- finish --
update installation as i
set
    epoch = $1,
    system_identifier = s.system_identifier::text,
    timeline = ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer,
    recovering_since = null,
    quarantine_until = now() + $2::double precision * interval '1 day'
from pg_control_system() as s

-- collection_state --
-- Partitions that are not ingested again yet, whether orphans go to quarantine, and whether the catalog may be older.
select
    (
        select count(*) from recovery_targets as t left join ingest_progress as p using (topic, partition)
        where coalesce(p.next_offset, 0) < t.next_offset
    ) as rewound,
    coalesce((select quarantine_until > now() from installation), false) as quarantined,
    exists (
        select from installation as i, pg_control_system() as s
        where i.recovering_since is not null
        or i.system_identifier <> s.system_identifier::text
        or i.timeline <> ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer
    ) as reverted
