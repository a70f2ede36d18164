create table pack_copies (
    place text collate "C" not null check (place in ('store', 'archive')),
    store_key text collate "C" not null,
    digest bytea not null,
    primary key (digest, place, store_key)
);

create index pack_copies_by_key on pack_copies (place, store_key);

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

create table export_shards (
    host text collate "C" not null,
    target text collate "C" not null,
    name text collate "C" not null,
    split text not null,
    first_id uuid not null,
    last_id uuid not null,
    primary key (host, target, name)
);

create table erasure_exports (
    erasure_id uuid not null,
    host text collate "C" not null,
    target text collate "C" not null,
    shard text collate "C" not null,
    primary key (erasure_id, host, target, shard)
);

create index records_by_clip on records (clip_sha256) where clip_sha256 is not null;
