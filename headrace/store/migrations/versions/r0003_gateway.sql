-- The clip that belongs to an LDO.
alter table records add column clip_sha256 bytea check (octet_length(clip_sha256) = 32);

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
