create table retention_rules (
    kind text collate "C" not null check (kind in ('cid', 'frame', 'clip', 'ldo')),
    site text collate "C" not null,
    days integer not null check (days > 0),
    primary key (kind, site)
);

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

alter table erasures
    add column keeps_out boolean not null default true,
    add column subjects_held bigint not null default 0;
