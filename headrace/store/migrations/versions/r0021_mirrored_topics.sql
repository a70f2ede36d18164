-- Of a mirrored message, "offset" is the one at its site, and mirrored_offset the one here.
alter table sightings add column mirrored_offset bigint;

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
