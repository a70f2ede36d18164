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
