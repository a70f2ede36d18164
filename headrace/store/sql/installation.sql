-- The identity of the installation.

-- read --
select
    i.installation_id, i.epoch, i.system_identifier, i.timeline, i.kafka_cluster_id, i.complete,
    i.recovering_since is not null as recovering,
    s.system_identifier::text as server,
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer as server_timeline
from installation as i, pg_control_system() as s

-- create --
insert into installation (installation_id, system_identifier, timeline, kafka_cluster_id)
select
    $1, s.system_identifier::text,
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer, $2
from pg_control_system() as s
on conflict do nothing

-- complete --
update installation set complete = true where not complete

-- same_server --
-- Whether this server is the one that the catalog was last known on; no row where nothing is known yet.
select
    i.system_identifier = s.system_identifier::text
    and i.timeline = ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer
from installation as i, pg_control_system() as s
