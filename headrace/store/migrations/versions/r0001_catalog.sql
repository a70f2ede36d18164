-- One row for each camera or device that was ever heard. The fill factor leaves room for its updates in place.
create table sources (
    site text collate "C" not null,
    source_id text collate "C" not null,
    first_seen_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    sequence_max bigint not null,
    deliveries bigint not null,
    primary key (site, source_id)
) with (fillfactor = 50);

-- Where bytes are: an object of their own (store_offset is null), or size_bytes from store_offset of a pack.
create table blobs (
    sha256 bytea primary key check (octet_length(sha256) = 32),
    size_bytes bigint not null check (size_bytes >= 0),
    media_type text not null,
    store_key text not null,
    store_offset bigint check (store_offset >= 0),
    created_at timestamptz not null default now()
);

-- One row for each distinct thing. record_id is UUIDv5 of kind and digest, so its primary key is also what makes the
-- pair unique; a second index in random order over every row would say nothing new and would cost every insert.
-- The digest names its blob without a foreign key: both rows are written by the same transaction, blob first.
create table records (
    record_id uuid primary key,
    kind text collate "C" not null check (kind in ('cid', 'frame', 'clip', 'ldo')),
    digest bytea not null check (octet_length(digest) = 32),
    site text collate "C" not null,
    source_id text collate "C" not null,
    captured_at timestamptz not null,
    sequence bigint not null,
    media_type text not null,
    size_bytes bigint not null,
    width integer,
    height integer,
    duration_us bigint,
    ldo_id text collate "C",
    code text collate "C",
    about text,
    -- json, not jsonb: it keeps the text as it came. jsonb writes 1e308 out as 309 digits, and the announcement would say
    -- other bytes than the source did, up to fifty times as many.
    attributes json not null default '{}',
    traceparent text,
    ingested_at timestamptz not null default now()
);

-- New rows go to the end of each of these (of each kind, of each source), so they stay cheap at any size. There is none
-- by time alone: a list of all kinds merges the four ends.
create index records_by_kind on records (kind, ingested_at, record_id);
create index records_by_source on records (site, source_id, ingested_at, record_id);
create index records_by_ldo_id on records (ldo_id, ingested_at, record_id) where ldo_id is not null;
-- Of codes only a hash is kept: a row of a btree holds 2.7 KB at the most, a code 4 KiB.
create index records_by_code on records using hash (code) where code is not null;

-- One row for each delivery. record_id belongs to the key: a topic that was made anew starts again at offset 0, and its
-- observations must not disappear behind the old ones, while a redelivery of one message carries the same record.
create table sightings (
    topic text collate "C" not null,
    partition integer not null,
    "offset" bigint not null,
    index integer not null default 0,
    record_id uuid not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    captured_at timestamptz not null,
    sequence bigint not null,
    seen_at timestamptz not null default now(),
    primary key (topic, partition, "offset", index, record_id)
);

create index sightings_by_record on sightings (record_id);

-- Headers are json, not jsonb: jsonb has no place for U+0000, and a dead letter must always be kept.
create table dead_letters (
    dead_letter_id uuid primary key,
    code text collate "C" not null,
    reason text not null,
    topic text collate "C" not null,
    partition integer not null,
    "offset" bigint not null,
    message_timestamp_us bigint not null,
    key bytea,
    value bytea,
    headers json not null default '[]',
    site text collate "C",
    source_id text collate "C",
    rejected_at timestamptz not null default now()
);

create index dead_letters_by_time on dead_letters (rejected_at, dead_letter_id);
create index dead_letters_by_code on dead_letters (code, rejected_at, dead_letter_id);

-- What is still to be announced, and what was. The relay asks for published_at is null, never for id > last, because
-- commit order is not id order. The one index holds only what is not out yet, so it stays small, and to mark a row as
-- published touches no index at all.
create table outbox (
    id bigint generated always as identity,
    event_id uuid not null,
    topic text collate "C" not null,
    record_id uuid,
    dead_letter_id uuid,
    created_at timestamptz not null default now(),
    published_at timestamptz,
    check (num_nonnulls(record_id, dead_letter_id) = 1)
) with (autovacuum_vacuum_scale_factor = 0.02);

create unique index outbox_unpublished on outbox (id) where published_at is null;

-- How far the relay has read each topic that it writes to.
create table relay_checkpoints (
    topic text collate "C" not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
);
