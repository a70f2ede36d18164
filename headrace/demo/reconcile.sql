-- What the catalog holds of the messages that a demo published.

-- now --
select clock_timestamp()

-- sightings --
select sent.topic, sent.partition, sent."offset", r.kind, encode(r.digest, 'hex') as digest
from unnest($1::text[], $2::integer[], $3::bigint[]) as sent (topic, partition, "offset")
join sightings as s on (s.topic, s.partition, s."offset") = (sent.topic, sent.partition, sent."offset")
join records as r on r.record_id = s.record_id
where s.seen_at >= $4

-- dead_letters --
select sent.topic, sent.partition, sent."offset", d.code
from unnest($1::text[], $2::integer[], $3::bigint[]) as sent (topic, partition, "offset")
join dead_letters as d on (d.topic, d.partition, d."offset") = (sent.topic, sent.partition, sent."offset")
where d.rejected_at >= $4

-- records --
select
    r.kind, encode(r.digest, 'hex') as digest, r.ingested_at < $2 as was_there,
    r.size_bytes, b.store_key, b.store_offset
from records as r
left join blobs as b on b.sha256 = r.digest
where r.record_id = any($1::uuid[])
