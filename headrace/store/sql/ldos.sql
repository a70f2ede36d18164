-- LDOs for the list of the LDO service: newest first, with offset pagination, as that interface requires.
-- Words in braces are replaced by parts of queries.sql.

-- page --
select
    r.record_id, encode(r.digest, 'hex') as digest,
    (extract(epoch from r.captured_at) * 1000000)::bigint as captured_at_us,
    (extract(epoch from r.ingested_at) * 1000000)::bigint as ingested_at_us,
    r.size_bytes, encode(r.clip_sha256, 'hex') as clip_sha256
from records as r
where r.kind = 'ldo' and ($3::text[] is null or {within})
order by r.ingested_at desc, r.record_id desc
offset $1
limit $2

-- clips --
select record_id, size_bytes, attributes ->> 'filename' as filename
from records
where record_id = any($1::uuid[])

-- count --
select count(*)
from records as r
where r.kind = 'ldo' and ($1::text[] is null or {within})
