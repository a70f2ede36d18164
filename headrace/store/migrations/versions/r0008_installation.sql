-- One row: which installation this catalog belongs to. Kafka and the store have the same id and epoch
-- (headrace/store/installation.py). The epoch grows with each recovery. system_identifier and timeline are those of the
-- PostgreSQL server that the catalog was last known on: another one may lack the last transactions.
create table installation (
    one boolean primary key default true check (one),
    installation_id uuid not null,
    epoch bigint not null default 1,
    system_identifier text not null,
    timeline integer not null,
    kafka_cluster_id text not null,
    -- Whether Kafka and the store have been marked.
    complete boolean not null default false,
    -- Since when a recovery is under way; nothing else may start meanwhile.
    recovering_since timestamptz,
    -- Orphans are kept in quarantine until then.
    quarantine_until timestamptz
);

-- Until a partition is ingested up to here again, orphan collection is suspended.
create table recovery_targets (
    topic text collate "C" not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
);

-- Announcements that were on their topics when the catalog had no row for them: they are not published again.
create table announced (
    event_id uuid primary key,
    learned_at timestamptz not null default now()
);
