-- What a dead letter's message was ingested as after all, and when.
alter table dead_letters add column redriven_at timestamptz, add column record_id uuid;

create index dead_letters_by_place on dead_letters (topic, partition, "offset", dead_letter_id);

-- One row for each time that a dead letter's message is published again. A row is written before the message is, so that
-- a redrive which was killed goes on where it stopped; the worker ends it, with the record or with the new refusal.
create table redrives (
    dead_letter_id uuid not null,
    attempt integer not null check (attempt > 0),
    claimed_at timestamptz not null default now(),
    published_at timestamptz,
    ended_at timestamptz,
    record_id uuid,
    code text collate "C",
    reason text,
    primary key (dead_letter_id, attempt)
);

-- One row in all. The generation grows whenever objects were deleted (store/collection.py). Rows of the outbox that were
-- written before outbox_pruned_until and published are gone: that a record so old has none means nothing.
create table collection (
    one boolean primary key default true check (one),
    generation bigint not null default 0,
    outbox_pruned_until timestamptz not null default 'epoch'
);

insert into collection default values;

-- Objects that are being deleted right now: no transaction may commit a blob that lies in one of them.
create table collecting (
    store_key text collate "C" primary key,
    marked_at timestamptz not null default now()
);
