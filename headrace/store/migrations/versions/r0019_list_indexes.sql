create index records_by_source_and_kind on records (site, source_id, kind, ingested_at, record_id);
create index sightings_by_record_and_time on sightings (record_id, seen_at);

-- Last, because readers wait from here on.
drop index records_by_source, records_ldos, sightings_by_record;
alter index records_by_source_and_kind rename to records_by_source;
alter index sightings_by_record_and_time rename to sightings_by_record;
