-- The same bytes from two sites are one record, whose row has what the first one said. Each further site has a row of its
-- own, is listed by it, and announced with it. Earlier deliveries get theirs with the next one from their site.
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

alter table outbox add column site text collate "C";
