-- LDOs for the list of the LDO service: newest first, with offset pagination, as that interface requires. The offset is
-- counted off in an index; only the records of the page are read.
-- Words in braces are replaced by parts of queries.sql.

-- page --
select {columns}
from (
    select ingested_at, record_id
    from records
    where kind = 'ldo'
    order by ingested_at desc, record_id desc
    offset $1::bigint
    limit $2::bigint
) as key
join records as r using (record_id)
order by key.ingested_at desc, key.record_id desc

-- page_within --
select {columns}
from (
    select newest.ingested_at, newest.record_id
    from record_counts as wanted
    cross join lateral (
        select r.ingested_at, r.record_id
        from records as r
        where r.site = wanted.site and r.source_id = wanted.source_id and r.kind = 'ldo'
        order by r.ingested_at desc, r.record_id desc
        limit $1::bigint + $2::bigint
    ) as newest
    where wanted.kind = 'ldo' and {within}
    order by newest.ingested_at desc, newest.record_id desc
    offset $1::bigint
    limit $2::bigint
) as key
join records as r using (record_id)
order by key.ingested_at desc, key.record_id desc

-- clips --
select record_id, size_bytes, attributes ->> 'filename' as filename
from records
where record_id = any($1::uuid[])

-- count --
select coalesce(sum(records), 0)::bigint
from record_counts as wanted
where kind = 'ldo' and ($1::text[] is null or {within})

-- columns --
r.record_id, encode(r.digest, 'hex') as digest, (extract(epoch from r.captured_at) * 1000000)::bigint as captured_at_us,
(extract(epoch from r.ingested_at) * 1000000)::bigint as ingested_at_us, r.size_bytes,
encode(r.clip_sha256, 'hex') as clip_sha256
