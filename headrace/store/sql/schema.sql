-- The catalog as the migrations leave it: tests/store/test_migrate.py holds the two equal.
-- Times are timestamptz; digests are the 32 bytes of a SHA-256. Names are compared byte by byte: it is faster, and an
-- index does not break when the system's collations change.

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
    created_at timestamptz not null default now(),
    -- Since when the bytes are in the archive, where key and offset then lie; null while they are in the store.
    archived_at timestamptz,
    -- When the bytes came back from the archive; they stay for a while before they go there again.
    restored_at timestamptz
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
    ingested_at timestamptz not null default now(),
    -- The clip that belongs to an LDO.
    clip_sha256 bytea check (octet_length(clip_sha256) = 32)
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
    rejected_at timestamptz not null default now(),
    -- What the message was ingested as after all, and when.
    redriven_at timestamptz,
    record_id uuid
);

create index dead_letters_by_place on dead_letters (topic, partition, "offset", dead_letter_id);
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

-- One row for each time that a dead letter's message is published again. A row is written before the message is, so that
-- a redrive which was killed goes on where it stopped; the worker ends it, with the record or with the new refusal.
create table redrives (
    dead_letter_id uuid not null,
    attempt integer not null check (attempt > 0),
    claimed_at timestamptz not null default now(),
    published_at timestamptz,
    ended_at timestamptz,
    record_id uuid,
    code text collate "C",
    reason text,
    primary key (dead_letter_id, attempt)
);

-- One row in all. The generation grows whenever objects were deleted (headrace/store/catalog/orphan_gc.py). Rows of the outbox that were
-- written before outbox_pruned_until and published are gone: that a record so old has none means nothing.
create table collection (
    one boolean primary key default true check (one),
    generation bigint not null default 0,
    outbox_pruned_until timestamptz not null default 'epoch'
);

insert into collection default values;

-- Objects that are being deleted right now: no transaction may commit a blob that lies in one of them.
create table collecting (
    store_key text collate "C" primary key,
    marked_at timestamptz not null default now()
);

-- Keys that let callers in at the gateway. Only the SHA-256 of a secret is kept: it is 32 random bytes, so nothing that is
-- made to be slow would add to it. After a rotation the secret before it is good until previous_until.
create table api_keys (
    key_id text collate "C" primary key,
    name text not null,
    role text collate "C" not null check (role in ('device', 'operator', 'admin')),
    -- 'site/source', 'site/*' or '*'.
    sources text[] not null,
    secret_sha256 bytea not null check (octet_length(secret_sha256) = 32),
    previous_sha256 bytea check (octet_length(previous_sha256) = 32),
    previous_until timestamptz,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

-- Every refusal at the gateway, and everything that was done to keys.
create table audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text,
    address text,
    action text collate "C" not null,
    code text collate "C",
    request_id text
);

-- Answers that were given under an Idempotency-Key; status is null while the first request is at work.
create table idempotency (
    actor text collate "C" not null,
    key text collate "C" not null,
    fingerprint bytea,
    status integer,
    answer json,
    created_at timestamptz not null default now(),
    primary key (actor, key)
);

create index idempotency_by_time on idempotency (created_at);

-- What callers asked the gateway to ingest: files that they sent, or a camera's stream.
create table ingest_requests (
    request_id uuid primary key,
    kind text collate "C" not null check (kind in ('upload', 'rtsp')),
    actor text not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    state text collate "C" not null,
    reason text,
    asked json not null default '{}',
    -- A camera's login, sealed; never in the clear.
    sealed bytea,
    evidence json not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create index ingest_requests_by_time on ingest_requests (created_at, request_id);

-- The frames and clips of a request, each with where its message stands in Kafka, or why there is none.
create table request_items (
    request_id uuid not null,
    index integer not null,
    filename text,
    kind text collate "C",
    digest bytea check (octet_length(digest) = 32),
    media_type text,
    size_bytes bigint,
    width integer,
    height integer,
    exif json,
    topic text collate "C",
    partition integer,
    "offset" bigint,
    code text collate "C",
    reason text,
    primary key (request_id, index)
);

-- Each change of a request's state, in the order of the commits: a lock makes whoever adds one wait for the others.
create table request_events (
    id bigint generated always as identity primary key,
    request_id uuid not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    state text collate "C" not null,
    detail json not null default '{}',
    at timestamptz not null default now()
);

-- How each camera is set up, and its calibration; version counts the changes.
create table cameras (
    site text collate "C" not null,
    camera_id text collate "C" not null,
    settings json not null default '{}',
    calibration json,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (site, camera_id)
);

-- Resumable uploads, and the objects that hold what has come of each so far.
create table uploads (
    upload_id uuid primary key,
    actor text not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    length_bytes bigint check (length_bytes >= 0),
    offset_bytes bigint not null default 0,
    metadata json not null default '{}',
    state text collate "C" not null default 'open' check (state in ('open', 'joining', 'done', 'failed')),
    -- Who writes to it now, and since when: two requests must not add to one upload at a time.
    held_by uuid,
    held_until timestamptz,
    digest bytea check (octet_length(digest) = 32),
    topic text collate "C",
    partition integer,
    "offset" bigint,
    code text collate "C",
    reason text,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);

create index uploads_by_expiry on uploads (expires_at);

create table upload_parts (
    upload_id uuid not null,
    offset_bytes bigint not null,
    size_bytes bigint not null check (size_bytes > 0),
    store_key text collate "C" not null,
    primary key (upload_id, offset_bytes)
);

-- Objects that a move wrote, or is to remove: whatever no row names there goes (headrace/store/catalog/archives.py).
create table leavings (
    place text collate "C" not null check (place in ('store', 'archive')),
    store_key text collate "C" not null,
    primary key (place, store_key)
);

-- Sets of labelling functions; a version is never changed, so what it said of a record stays what it would say.
create table label_versions (
    version text collate "C" primary key,
    module_sha256 bytea not null check (octet_length(module_sha256) = 32),
    -- In the order of the module, which decides between labels that have as many votes.
    functions text[] not null,
    created_at timestamptz not null default now()
);

-- What a version says of each record that it was shown. label is null where every function abstained or raised.
create table labels (
    version text collate "C" not null,
    record_id uuid not null,
    label text collate "C",
    -- {function: label} of those that voted, {function: error} of those that raised.
    votes json not null,
    errors json not null,
    labelled_at timestamptz not null default now(),
    primary key (version, record_id)
);
