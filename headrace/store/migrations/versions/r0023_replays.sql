create index site_records_by_time on site_records (ingested_at);

create table replays (
    name text collate "C" primary key,
    replay_id uuid not null unique,
    request json not null,
    items bigint not null,
    position bigint not null default 0,
    began_at timestamptz not null default now(),
    ended_at timestamptz
);

create table replay_items (
    replay_id uuid not null,
    position bigint not null,
    record_id uuid not null,
    site text collate "C",
    primary key (replay_id, position)
);
