-- Up to which offset each partition is in the catalog. Every batch moves it on in its own transaction, and Kafka is told
-- afterwards: a consumer group that is ahead of this row means that the catalog went back in time.
create table ingest_progress (
    topic text collate "C" not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
) with (fillfactor = 50);

-- Offsets that retention deleted before they were ingested, both ends included. Ranges of a partition do not touch.
create table lost_ranges (
    topic text collate "C" not null,
    partition integer not null,
    first_offset bigint not null,
    last_offset bigint not null check (last_offset >= first_offset),
    noticed_at timestamptz not null default now(),
    primary key (topic, partition, first_offset)
);
