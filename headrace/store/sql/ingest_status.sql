-- The status of published messages: ingested, rejected, or not consumed yet.

-- outcomes --
-- A dead letter has no record; it is found by the position of its message, and was rejected after that was published.
select s.record_id is not null as ingested, d.code, d.reason
from unnest($1::text[], $2::integer[], $3::bigint[], $4::uuid[], $5::double precision[]) with ordinality
    as w (topic, partition, message_offset, record_id, since_s, number)
left join sightings as s
    on s.topic = w.topic and s.partition = w.partition and s."offset" = w.message_offset and s.index = 0
    and s.record_id = w.record_id
left join lateral (
    select code, reason
    from dead_letters
    where topic = w.topic and partition = w.partition and "offset" = w.message_offset
        and rejected_at >= to_timestamp(w.since_s)
    order by rejected_at desc
    limit 1
) as d on s.record_id is null
order by w.number
