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
