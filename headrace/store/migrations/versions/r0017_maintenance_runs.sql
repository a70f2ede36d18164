create table maintenance_runs (
    job text collate "C" primary key,
    succeeded_at timestamptz not null default now()
);
