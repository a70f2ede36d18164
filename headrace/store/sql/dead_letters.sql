-- Listing, redrive and expiry of dead letters. Times are returned as microseconds since 1970; numeric keeps them exact.
-- {conditions} is replaced by the fixed parts at the end of this file, never by user input.
-- A redrive that was published before {lost_before} and has not ended may have been deleted from Kafka unread.

-- page --
select
    d.dead_letter_id, d.code, d.reason, d.topic, d.partition, d."offset", d.message_timestamp_us,
    octet_length(d.value) as value_bytes, d.site, d.source_id,
    (extract(epoch from d.rejected_at) * 1000000)::bigint as rejected_at_us,
    coalesce(last.attempt, 0) as attempts, {state} as state,
    (extract(epoch from d.redriven_at) * 1000000)::bigint as redriven_at_us, d.record_id
from dead_letters as d
{last}
where {conditions}
order by d.rejected_at desc, d.dead_letter_id desc
limit $1

-- counts --
select {state} as state, d.code, count(*)
from dead_letters as d
{last}
where {conditions}
group by 1, 2
order by 1, 2

-- history --
select
    attempt,
    (extract(epoch from claimed_at) * 1000000)::bigint as claimed_at_us,
    (extract(epoch from published_at) * 1000000)::bigint as published_at_us,
    (extract(epoch from ended_at) * 1000000)::bigint as ended_at_us,
    record_id, code, reason
from redrives
where dead_letter_id = $1
order by attempt

-- ids_between --
select dead_letter_id from dead_letters where dead_letter_id between $1 and $2 order by dead_letter_id limit $3

-- candidates --
-- By original position, with keyset pagination. A published redrive that has not ended is left out, because a worker
-- will still consume it, unless Kafka may have deleted it.
select
    d.dead_letter_id, d.topic, d.partition, d."offset",
    coalesce(octet_length(d.value), 0) + coalesce(octet_length(d.key), 0) as bytes,
    coalesce(last.attempt, 0) - case when last.attempt is not null and last.ended_at is null then 1 else 0 end as ended
from dead_letters as d
{last}
where {conditions} and d.record_id is null
    and (
        last.attempt is null or last.ended_at is not null or last.published_at is null
        or last.published_at < {lost_before}
    )
    and (d.topic, d.partition, d."offset", d.dead_letter_id) > ($2, $3::integer, $4::bigint, $5::uuid)
order by d.topic, d.partition, d."offset", d.dead_letter_id
limit $1

-- letters --
select
    dead_letter_id, code, reason, topic, partition, "offset", message_timestamp_us, key, value,
    headers::text as headers, site, source_id
from dead_letters
where dead_letter_id = any($1::uuid[])

-- try_lock --
select pg_try_advisory_lock($1)

-- unlock --
select pg_advisory_unlock($1)

-- claim --
-- A lost redrive is claimed again under the same attempt; if its first message is delivered after all, it is ingested
-- once. A letter that was erased or has expired since it was read is not claimed.
insert into redrives as r (dead_letter_id, attempt)
select d.dead_letter_id, w.attempt
from unnest($1::uuid[], $2::integer[]) as w (dead_letter_id, attempt)
join dead_letters as d using (dead_letter_id)
for key share of d
on conflict (dead_letter_id, attempt) do update
set claimed_at = now(), published_at = null
where r.ended_at is null and r.published_at < {lost_before}

-- unpublished --
select dead_letter_id
from redrives as r
join unnest($1::uuid[], $2::integer[]) as w (dead_letter_id, attempt) using (dead_letter_id, attempt)
where r.published_at is null and r.ended_at is null

-- published --
update redrives as r
set published_at = now()
from unnest($1::uuid[], $2::integer[]) as w (dead_letter_id, attempt)
where r.dead_letter_id = w.dead_letter_id and r.attempt = w.attempt and r.published_at is null

-- expired --
select count(*) from dead_letters as d {last} where {old}

-- expire --
-- Dead letters that are not announced yet, or are being redriven, are kept. Their redrives are deleted with them.
with gone as (
    delete from dead_letters
    where ctid = any(array(
        select d.ctid from dead_letters as d {last} where {old} order by d.rejected_at, d.dead_letter_id limit $2
    ))
    returning dead_letter_id
), history as (
    delete from redrives where dead_letter_id in (select dead_letter_id from gone)
)
select count(*) from gone

-- last --
left join lateral (
    select attempt, published_at, ended_at
    from redrives
    where dead_letter_id = d.dead_letter_id
    order by attempt desc
    limit 1
) as last on true

-- state --
case
    when d.record_id is not null then 'ingested'
    when last.attempt is null then 'waiting'
    when last.ended_at is null then 'on_its_way'
    else 'refused_again'
end

-- old --
d.rejected_at < now() - $1::integer * interval '1 day'
    and (last.attempt is null or last.ended_at is not null or last.published_at < {lost_before})
    and not exists (
        select from outbox as o
        where o.created_at = d.rejected_at and o.dead_letter_id = d.dead_letter_id and o.published_at is null
    )
    and not exists (
        select from holds as h
        where h.released_at is null and h.site = d.site and h.source_id in ('', d.source_id)
    )

-- lost_before --
now() - interval '{input_retention_s} seconds'
