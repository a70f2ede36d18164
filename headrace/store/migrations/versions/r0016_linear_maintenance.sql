create index blobs_by_key on blobs (store_key collate "C")
    where store_offset is not null or right(store_key, 64) <> encode(sha256, 'hex');
create index blobs_archived on blobs (archived_at) where archived_at is not null;

create function blobs_of(object_key text) returns setof blobs language sql stable as $$
    select b.*
    from blobs as b
    where b.store_key = object_key collate "C"
        and b.sha256 = case when object_key ~ '[0-9a-f]{64}$' then decode(right(object_key, 64), 'hex') end
    union all
    select b.*
    from blobs as b
    where b.store_key = object_key collate "C"
        and (b.store_offset is not null or right(b.store_key, 64) <> encode(b.sha256, 'hex'))
$$;

create index records_ldos on records (site, source_id, ingested_at, record_id) where kind = 'ldo';

create table record_counts (
    site text collate "C" not null,
    source_id text collate "C" not null,
    kind text collate "C" not null,
    records bigint not null,
    primary key (site, source_id, kind)
) with (fillfactor = 50);

create function count_added_records() returns trigger language plpgsql
    security definer set search_path = public, pg_temp as $$
begin
    insert into record_counts (site, source_id, kind, records)
    select site, source_id, kind, count(*)
    from added
    group by site, source_id, kind
    order by site, source_id, kind
    on conflict (site, source_id, kind) do update set records = record_counts.records + excluded.records;
    return null;
end
$$;

create function count_removed_records() returns trigger language plpgsql
    security definer set search_path = public, pg_temp as $$
begin
    with gone as (
        select site, source_id, kind, count(*) as records from removed group by site, source_id, kind
    ), locked as materialized (
        select c.site, c.source_id, c.kind
        from record_counts as c
        join gone as g on g.site = c.site and g.source_id = c.source_id and g.kind = c.kind
        order by c.site, c.source_id, c.kind
        for update of c
    )
    update record_counts as c
    set records = c.records - g.records
    from locked as l
    join gone as g on g.site = l.site and g.source_id = l.source_id and g.kind = l.kind
    where c.site = l.site and c.source_id = l.source_id and c.kind = l.kind;
    -- No trace of a source is left whose records are erased.
    delete from record_counts as c
    using (select distinct site, source_id, kind from removed) as r
    where c.site = r.site and c.source_id = r.source_id and c.kind = r.kind and c.records = 0;
    return null;
end
$$;

create trigger count_added_records after insert on records
    referencing new table as added for each statement execute function count_added_records();
create trigger count_deleted_records after delete on records
    referencing old table as removed for each statement execute function count_removed_records();
-- An erasure gives a record to another source: the new rows are added first.
create trigger count_moved_records_1 after update on records
    referencing new table as added for each statement execute function count_added_records();
create trigger count_moved_records_2 after update on records
    referencing old table as removed for each statement execute function count_removed_records();

-- The triggers wait for running transactions and let no other one insert before this is committed.
insert into record_counts (site, source_id, kind, records)
select site, source_id, kind, count(*) from records group by site, source_id, kind;

create index outbox_by_time on outbox (created_at);
create index outbox_unpublished_by_event on outbox (event_id) where published_at is null;
create index announced_by_time on announced (learned_at);

create index ingest_requests_of_captures on ingest_requests (state, updated_at) where kind = 'rtsp';
create index request_events_by_request on request_events (request_id);
create index uploads_unfinished on uploads (actor) where state in ('open', 'joining');
