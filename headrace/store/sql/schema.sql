-- The catalog as the migrations leave it: tests/store/test_migrate.py holds the two equal.
-- Times are timestamptz; digests are the 32 bytes of a SHA-256. Names are compared byte by byte: it is faster, and an
-- index does not break when the system's collations change.

-- One row for each source that has ever published an event. The fill factor leaves room for HOT updates.
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
    -- When the bytes were archived; store_key and store_offset then refer to the archive. Null while they are in the
    -- store.
    archived_at timestamptz,
    -- When the bytes were restored from the archive; they stay for a while before they are archived again.
    restored_at timestamptz
);

-- By object, where the digest in the key does not lead to the row: members of packs. All members of a pack are written
-- at once, so an insert touches one page of it.
create index blobs_by_key on blobs (store_key collate "C")
    where store_offset is not null or right(store_key, 64) <> encode(sha256, 'hex');
create index blobs_archived on blobs (archived_at) where archived_at is not null;

-- The blobs in an object of the store or the archive.
create function blobs_of(object_key text) returns setof blobs language sql stable as $$
    select b.*
    from blobs as b
    where b.store_key = object_key collate "C"
        and b.sha256 = case when object_key ~ '[0-9a-f]{64}$' then decode(right(object_key, 64), 'hex') end
    union all
    select b.*
    from blobs as b
    where b.store_key = object_key collate "C"
        and (b.store_offset is not null or right(b.store_key, 64) <> encode(b.sha256, 'hex'))
$$;

-- One row for each distinct thing. record_id is UUIDv5 of kind and digest, so its primary key is also what makes the
-- pair unique; a second index would be redundant and slow down every insert.
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
    -- json, not jsonb: it keeps the text unchanged. jsonb expands 1e308 to 309 digits, so the announcement would differ
    -- from the source's bytes and could be fifty times as large.
    attributes json not null default '{}',
    -- The W3C trace context: traceparent, and tracestate after a space.
    traceparent text,
    ingested_at timestamptz not null default now(),
    -- The clip that belongs to an LDO.
    clip_sha256 bytea check (octet_length(clip_sha256) = 32)
);

-- New rows go to the end of each of these (of each kind, of each kind of a source), so they stay cheap at any size.
-- There is none by time alone: a list of all kinds merges the four ends.
create index records_by_kind on records (kind, ingested_at, record_id);
create index records_by_source on records (site, source_id, kind, ingested_at, record_id);
create index records_by_ldo_id on records (ldo_id, ingested_at, record_id) where ldo_id is not null;
-- A hash index, because an entry of a btree has at most 2.7 KB and a code up to 4 KiB.
create index records_by_code on records using hash (code) where code is not null;
-- The LDOs that name a clip, which an export has with them.
create index records_by_clip on records (clip_sha256) where clip_sha256 is not null;

-- How many records of each kind a source has, whoever inserts or deletes them: the functions have the owner's rights. A
-- transaction changes these rows after its records and before the rows of its sources, in the order of the key, so two
-- of them do not deadlock.
create table record_counts (
    site text collate "C" not null,
    source_id text collate "C" not null,
    kind text collate "C" not null,
    records bigint not null,
    primary key (site, source_id, kind)
) with (fillfactor = 50);

create function count_added_records() returns trigger language plpgsql
    security definer set search_path = public, pg_temp as $$
begin
    insert into record_counts (site, source_id, kind, records)
    select site, source_id, kind, count(*)
    from added
    group by site, source_id, kind
    order by site, source_id, kind
    on conflict (site, source_id, kind) do update set records = record_counts.records + excluded.records;
    return null;
end
$$;

create function count_removed_records() returns trigger language plpgsql
    security definer set search_path = public, pg_temp as $$
begin
    with gone as (
        select site, source_id, kind, count(*) as records from removed group by site, source_id, kind
    ), locked as materialized (
        select c.site, c.source_id, c.kind
        from record_counts as c
        join gone as g on g.site = c.site and g.source_id = c.source_id and g.kind = c.kind
        order by c.site, c.source_id, c.kind
        for update of c
    )
    update record_counts as c
    set records = c.records - g.records
    from locked as l
    join gone as g on g.site = l.site and g.source_id = l.source_id and g.kind = l.kind
    where c.site = l.site and c.source_id = l.source_id and c.kind = l.kind;
    -- No trace of a source is left whose records are erased.
    delete from record_counts as c
    using (select distinct site, source_id, kind from removed) as r
    where c.site = r.site and c.source_id = r.source_id and c.kind = r.kind and c.records = 0;
    return null;
end
$$;

create trigger count_added_records after insert on records
    referencing new table as added for each statement execute function count_added_records();
create trigger count_deleted_records after delete on records
    referencing old table as removed for each statement execute function count_removed_records();
-- An erasure gives a record to another source: the new rows are added first.
create trigger count_moved_records_1 after update on records
    referencing new table as added for each statement execute function count_added_records();
create trigger count_moved_records_2 after update on records
    referencing old table as removed for each statement execute function count_removed_records();

-- One row for each delivery. record_id is part of the key: a topic that was created again starts at offset 0, and its
-- sightings must not conflict with the old ones, while a redelivery of one message has the same record.
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
    -- Of a mirrored message, "offset" is the one at its site, and mirrored_offset the one here.
    mirrored_offset bigint,
    primary key (topic, partition, "offset", index, record_id)
);

create index sightings_by_record on sightings (record_id, seen_at);

-- One row for each further site that delivered the bytes of a record: what its first delivery said, and when it was
-- ingested. A site reads, lists and hears of its own rows only.
create table site_records (
    record_id uuid not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    captured_at timestamptz not null,
    sequence bigint not null,
    about text,
    attributes json not null default '{}',
    traceparent text,
    ingested_at timestamptz not null default now(),
    primary key (record_id, site)
);

create index site_records_by_source on site_records (site, source_id, ingested_at, record_id);
-- The announcements of a time: those of a record's own site are in records_by_kind.
create index site_records_by_time on site_records (ingested_at);

-- Headers are json, not jsonb: jsonb cannot store U+0000, and a dead letter must always be stored.
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
    -- The record that a redrive led to, and when.
    redriven_at timestamptz,
    record_id uuid
);

create index dead_letters_by_place on dead_letters (topic, partition, "offset", dead_letter_id);
create index dead_letters_by_time on dead_letters (rejected_at, dead_letter_id);
create index dead_letters_by_code on dead_letters (code, rejected_at, dead_letter_id);

-- Announcements, published or not. The relay selects published_at is null, never id > last, because commit order is not
-- id order. Two indexes hold only unpublished rows, so they stay small. The one by time is small too: the rows of a
-- transaction share its keys. created_at is the time of the record or the dead letter, by which a row is found.
create table outbox (
    id bigint generated always as identity,
    event_id uuid not null,
    topic text collate "C" not null,
    record_id uuid,
    dead_letter_id uuid,
    created_at timestamptz not null default now(),
    -- When it was published, or set aside.
    published_at timestamptz,
    -- The further site that the record is announced for, as its row of site_records says; null for its first one.
    site text collate "C",
    -- Why it cannot be published; such a row is kept until it can be.
    set_aside text,
    check (num_nonnulls(record_id, dead_letter_id) = 1)
) with (autovacuum_vacuum_scale_factor = 0.02);

create unique index outbox_unpublished on outbox (topic, id) where published_at is null;
create index outbox_unpublished_by_event on outbox (event_id) where published_at is null;
create index outbox_by_time on outbox (created_at);
create index outbox_set_aside on outbox (id) where set_aside is not null;

-- How far the relay has read each topic that it writes to.
create table relay_checkpoints (
    topic text collate "C" not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
);

-- One row for each redrive of a dead letter, inserted before its message is published, so that an interrupted redrive
-- can resume. The worker completes it with the record, or with the code and reason of another rejection.
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

-- What the spools of sources report as lost since they were created: dropped events of the source, because the spool was
-- full, and damaged events of any source in the spool. `spool` is empty for producers of earlier versions.
create table source_losses (
    spool text collate "C" not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    dropped bigint not null,
    damaged bigint not null,
    reported_at timestamptz not null default now(),
    primary key (spool, site, source_id)
);

-- A single row. `generation` is the collection epoch: it grows whenever objects were deleted
-- (headrace/store/catalog/orphan_gc.py). Published rows of the outbox from before outbox_pruned_until were deleted, so
-- a missing one says nothing about such a record.
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

-- API keys of the gateway. Only the SHA-256 of a secret is kept: it is 32 random bytes, so a slow password hash would
-- add no protection. After a rotation the previous secret is valid until previous_until.
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

-- Refusals at the gateway, requests that changed something, and everything that was done to keys. count is the number of
-- requests that were alike within a minute.
create table audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text,
    address text,
    action text collate "C" not null,
    code text collate "C",
    request_id text,
    count bigint not null default 1 check (count > 0)
);

create index audit_by_time on audit (at, id);

-- Responses to requests with an Idempotency-Key; status is null while the first request is in progress.
create table idempotency (
    actor text collate "C" not null,
    key text collate "C" not null,
    fingerprint bytea,
    status integer,
    answer json,
    created_at timestamptz not null default now(),
    -- The response's Location header.
    location text,
    -- Renewed by the gateway that processes the request.
    alive_at timestamptz not null default now(),
    primary key (actor, key)
);

create index idempotency_by_time on idempotency (created_at);

-- Requests to the gateway to ingest files or a camera's stream.
create table ingest_requests (
    request_id uuid primary key,
    kind text collate "C" not null check (kind in ('upload', 'rtsp')),
    actor text not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    state text collate "C" not null,
    reason text,
    asked json not null default '{}',
    -- A camera's credentials, encrypted.
    sealed bytea,
    evidence json not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create index ingest_requests_by_time on ingest_requests (created_at, request_id);
create index ingest_requests_of_captures on ingest_requests (state, updated_at) where kind = 'rtsp';

-- The frames and clips of a request, each with the position of its message, or the reason why it has none.
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

-- Each change of a request's state, in the order of the commits: inserts wait for each other on a lock.
create table request_events (
    id bigint generated always as identity primary key,
    request_id uuid not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    state text collate "C" not null,
    detail json not null default '{}',
    at timestamptz not null default now()
);

create index request_events_by_request on request_events (request_id);

-- The configuration and calibration of each camera; version counts the changes.
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

-- Resumable uploads, and the objects with the bytes received so far.
create table uploads (
    upload_id uuid primary key,
    actor text not null,
    site text collate "C" not null,
    source_id text collate "C" not null,
    length_bytes bigint check (length_bytes >= 0),
    offset_bytes bigint not null default 0,
    metadata json not null default '{}',
    state text collate "C" not null default 'open' check (state in ('open', 'joining', 'done', 'failed')),
    -- The current writer, and until when it holds the lock: two requests must not append to one upload at a time.
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
create index uploads_unfinished on uploads (actor) where state in ('open', 'joining');

create table upload_parts (
    upload_id uuid not null,
    offset_bytes bigint not null,
    size_bytes bigint not null check (size_bytes > 0),
    store_key text collate "C" not null,
    primary key (upload_id, offset_bytes)
);

-- Objects that a move wrote or has to delete: those to which no row refers are deleted
-- (headrace/store/catalog/archives.py).
create table leavings (
    place text collate "C" not null check (place in ('store', 'archive')),
    store_key text collate "C" not null,
    primary key (place, store_key)
);

-- Sets of labelling functions. A version never changes, so its labels of a record stay valid.
create table label_versions (
    version text collate "C" primary key,
    module_sha256 bytea not null check (octet_length(module_sha256) = 32),
    -- In the order of the module, which decides between labels with the same number of votes.
    functions text[] not null,
    created_at timestamptz not null default now()
);

-- The label of each record by version; null if every function abstained or raised.
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

-- Up to which offset each partition is in the catalog. Every batch moves it on in its own transaction, and Kafka is told
-- afterwards: a consumer group that is ahead of this row means that the catalog went back in time.
create table ingest_progress (
    topic text collate "C" not null,
    partition integer not null,
    next_offset bigint not null,
    -- Kafka's id of the topic: one that is made anew has another, and offsets of its own.
    topic_id text,
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

-- Up to which offset of a site's own topic its mirrored one has brought messages. `topic` is the mirrored topic's name.
create table mirror_progress (
    topic text collate "C" not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
) with (fillfactor = 50);

-- Offsets of a site's own topic that its mirrored one never brought, both ends included; last_offset is null where it is
-- not known. A reason of 'gap' is preliminary: transaction markers and aborted messages have offsets too, until the
-- first offset that the site's topic still has is compared.
create table mirror_losses (
    site text collate "C" not null,
    topic text collate "C" not null,
    partition integer not null,
    first_offset bigint not null,
    last_offset bigint check (last_offset >= first_offset),
    reason text collate "C" not null check (reason in ('gap', 'retention', 'truncated', 'made_anew')),
    noticed_at timestamptz not null default now(),
    primary key (site, topic, partition, first_offset, reason)
);

-- Bodies that a site has ingested and that are not here yet: one row for each record, and for each further site of one. The
-- row goes, and the announcement into the outbox, in the transaction that adds the blob, whoever brings it.
create table transfers (
    record_id uuid not null,
    -- The site that has the bytes, at this place of its store.
    site text collate "C" not null,
    store_key text not null,
    store_offset bigint check (store_offset >= 0),
    digest bytea not null check (octet_length(digest) = 32),
    size_bytes bigint not null check (size_bytes >= 0),
    media_type text not null,
    -- The announcement, which goes out when the bytes are here.
    event_id uuid not null,
    topic text collate "C" not null,
    -- Whether it is for a further site of the record.
    is_further boolean not null,
    -- The order: what was asked for by hand first, then by priority and size.
    requested_at timestamptz,
    priority integer not null,
    noted_at timestamptz not null default now(),
    -- Why the last attempt failed, and when there is another one.
    why text,
    retry_at timestamptz,
    primary key (record_id, site)
);

create index transfers_by_order on transfers (site, priority, size_bytes, noted_at, record_id);
create index transfers_requested on transfers (site, requested_at) where requested_at is not null;
create index transfers_by_digest on transfers (digest);

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

create index announced_by_time on announced (learned_at);

-- One row for each erasure: of a record (site and source_id are empty), of a source, or of a site (source_id is empty).
-- ended_at is null while it is under way; its report is signed if there is a key (headrace/store/catalog/erasures.py).
create table erasures (
    erasure_id uuid primary key,
    site text collate "C" not null default '',
    source_id text collate "C" not null default '',
    actor text not null,
    reason text not null,
    began_at timestamptz not null default now(),
    ended_at timestamptz,
    objects_deleted bigint not null default 0,
    packs_rewritten bigint not null default 0,
    -- Records that stay because they came from elsewhere too.
    records_kept bigint not null default 0,
    report json,
    signed text,
    -- Whether it leaves tombstones: not if retention is the reason.
    keeps_out boolean not null default true,
    -- Records and dead letters that stay because of a legal hold that was placed after the erasure began.
    subjects_held bigint not null default 0
);

-- SHA-256 of bodies, and of the values of dead letters, that must not come in again: from a site and a source, or from
-- any where these are empty. These rows are never deleted.
create table tombstones (
    digest bytea not null check (octet_length(digest) = 32),
    site text collate "C" not null,
    source_id text collate "C" not null,
    erasure_id uuid not null,
    erased_at timestamptz not null default now(),
    primary key (digest, site, source_id)
);

create index tombstones_by_erasure on tombstones (erasure_id);

-- Announcements of erased records and dead letters, which may still be on their topics.
create table erased_announcements (
    event_id uuid primary key,
    subject_id uuid not null,
    erasure_id uuid not null,
    -- Whether the record stays, and only what a source or site said of it is erased.
    is_part boolean not null default false,
    noted_at timestamptz not null default now()
);

create index erased_announcements_by_subject on erased_announcements (subject_id);
create index erased_announcements_by_erasure on erased_announcements (erasure_id);
create index erased_announcements_by_time on erased_announcements (noted_at);

-- The records and dead letters that an erasure still has to delete.
create table erasure_subjects (
    erasure_id uuid not null,
    subject_id uuid not null,
    is_dead_letter boolean not null,
    primary key (erasure_id, subject_id)
);

-- The messages that brought what an erasure deleted, for its report.
create table erasure_messages (
    erasure_id uuid not null,
    topic text collate "C" not null,
    partition integer not null,
    "offset" bigint not null,
    primary key (erasure_id, topic, partition, "offset")
);

-- Objects that hold erased bytes: they are deleted, or written again without them.
create table erasure_objects (
    place text collate "C" not null check (place in ('store', 'archive')),
    store_key text collate "C" not null,
    digest bytea not null,
    primary key (place, store_key, digest)
);

-- Bytes in a pack to which no row of `blobs` leads: their body was moved, or is in another pack since two workers stored
-- it at once. An erasure finds them here.
create table pack_copies (
    place text collate "C" not null check (place in ('store', 'archive')),
    store_key text collate "C" not null,
    digest bytea not null,
    primary key (digest, place, store_key)
);

create index pack_copies_by_key on pack_copies (place, store_key);

-- One row for each target of an export: of a directory with the name of its machine, of a store with an empty one. The
-- columns are those of its selection; ended_at is null while shards may be missing here.
create table export_runs (
    host text collate "C" not null,
    target text collate "C" not null,
    format text not null,
    kinds text[],
    sites text[],
    source_ids text[],
    captured_from timestamptz,
    captured_until timestamptz,
    ingested_until timestamptz not null,
    validation_share double precision not null,
    began_at timestamptz not null default now(),
    ended_at timestamptz,
    primary key (host, target)
);

-- The shards of an export, each with the first and the last record in it.
create table export_shards (
    host text collate "C" not null,
    target text collate "C" not null,
    name text collate "C" not null,
    split text not null,
    first_id uuid not null,
    last_id uuid not null,
    primary key (host, target, name)
);

-- The exports that can hold what an erasure deleted, for its report; an empty shard is one that was not finished.
create table erasure_exports (
    erasure_id uuid not null,
    host text collate "C" not null,
    target text collate "C" not null,
    shard text collate "C" not null,
    primary key (erasure_id, host, target, shard)
);

-- After how many days records of a kind are erased: those from a site, or where it is empty from each site without a
-- rule of its own.
create table retention_rules (
    kind text collate "C" not null check (kind in ('cid', 'frame', 'clip', 'ldo')),
    site text collate "C" not null,
    days integer not null check (days > 0),
    primary key (kind, site)
);

-- Legal holds: what they cover is not erased while released_at is null. A hold is of a record, or of a site, or of a
-- source of it.
create table holds (
    hold_id uuid primary key,
    record_id uuid,
    site text collate "C" not null default '',
    source_id text collate "C" not null default '',
    reason text not null,
    actor text not null,
    placed_at timestamptz not null default now(),
    released_at timestamptz,
    released_by text,
    check (record_id is not null or site <> '')
);

-- When each job of `headrace maintenance` last succeeded; a job that has never run counts from when it was first known.
create table maintenance_runs (
    job text collate "C" primary key,
    succeeded_at timestamptz not null default now()
);

-- One row for each replay: its name, by which it is resumed, what it selects, and how many of its items are delivered.
-- A replay into a topic keeps its position in Kafka, in the transactions of its messages; here it follows.
create table replays (
    name text collate "C" primary key,
    replay_id uuid not null unique,
    request json not null,
    items bigint not null,
    position bigint not null default 0,
    began_at timestamptz not null default now(),
    ended_at timestamptz
);

-- What a replay that has not ended delivers, in its order: a record, as its own site or as a further one announced it.
create table replay_items (
    replay_id uuid not null,
    position bigint not null,
    record_id uuid not null,
    site text collate "C",
    primary key (replay_id, position)
);
