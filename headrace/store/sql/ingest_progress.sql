-- How far each input partition is ingested, and what of it is lost. Every statement may be repeated.

-- advance --
-- Returns what was there before, null where there was no row.
with given as (
    select * from unnest($1::text[], $2::integer[], $3::bigint[]) as g (topic, partition, next_offset)
), before as (
    select g.topic, g.partition, p.next_offset
    from given as g left join ingest_progress as p using (topic, partition)
), written as (
    insert into ingest_progress (topic, partition, next_offset)
    select topic, partition, next_offset from given order by topic, partition
    on conflict (topic, partition) do update
    set next_offset = greatest(ingest_progress.next_offset, excluded.next_offset)
)
select topic, partition, next_offset from before

-- positions --
-- seen_until is what the rows themselves show: a worker of an older version ingests without moving next_offset. The rows
-- of mirrored topics have the offsets of their sites.
select
    g.topic, g.partition, p.next_offset, p.topic_id,
    case when g.topic not like '%.edge.%' then 1 + greatest(
        (select max(s."offset") from sightings as s where s.topic = g.topic and s.partition = g.partition),
        (select max(d."offset") from dead_letters as d where d.topic = g.topic and d.partition = g.partition)
    ) end as seen_until
from unnest($1::text[], $2::integer[]) as g (topic, partition)
left join ingest_progress as p using (topic, partition)

-- restart --
insert into ingest_progress (topic, partition, next_offset)
values ($1, $2, $3)
on conflict (topic, partition) do update set next_offset = excluded.next_offset

-- identify --
update ingest_progress set topic_id = $3 where topic = $1 and partition = $2 and topic_id is distinct from $3

-- lock_lost --
-- One at a time: two workers may notice the same.
select pg_advisory_xact_lock($1)

-- touching --
delete from lost_ranges
where topic = $1 and partition = $2 and first_offset <= $4::bigint + 1 and last_offset >= $3::bigint - 1
returning first_offset, last_offset, noticed_at

-- add_lost --
insert into lost_ranges (topic, partition, first_offset, last_offset, noticed_at)
values ($1, $2, $3, $4, coalesce($5, now()))

-- lost --
select topic, partition, first_offset, last_offset, (extract(epoch from noticed_at) * 1000000)::bigint as noticed_at_us
from lost_ranges
order by noticed_at desc, topic, partition, first_offset
limit $1

-- source_losses --
select site, source_id, spool, dropped, damaged, (extract(epoch from reported_at) * 1000000)::bigint as reported_at_us
from source_losses
order by reported_at desc, spool, site, source_id
limit $1
