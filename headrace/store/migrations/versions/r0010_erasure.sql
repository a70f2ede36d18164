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
    records_kept bigint not null default 0,
    report json,
    signed text
);

create table tombstones (
    digest bytea not null check (octet_length(digest) = 32),
    site text collate "C" not null,
    source_id text collate "C" not null,
    erasure_id uuid not null,
    erased_at timestamptz not null default now(),
    primary key (digest, site, source_id)
);

create index tombstones_by_erasure on tombstones (erasure_id);

create table erased_announcements (
    event_id uuid primary key,
    subject_id uuid not null,
    erasure_id uuid not null
);

create index erased_announcements_by_subject on erased_announcements (subject_id);

create table erasure_subjects (
    erasure_id uuid not null,
    subject_id uuid not null,
    is_dead_letter boolean not null,
    primary key (erasure_id, subject_id)
);

create table erasure_messages (
    erasure_id uuid not null,
    topic text collate "C" not null,
    partition integer not null,
    "offset" bigint not null,
    primary key (erasure_id, topic, partition, "offset")
);

create table erasure_objects (
    place text collate "C" not null check (place in ('store', 'archive')),
    store_key text collate "C" not null,
    digest bytea not null,
    primary key (place, store_key, digest)
);
