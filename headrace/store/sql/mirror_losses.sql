-- What the mirrored topics of sites brought, and what is missing of them. Every statement may be repeated.

-- where --
select g.topic, g.partition, p.next_offset
from unnest($1::text[], $2::integer[]) as g (topic, partition)
left join mirror_progress as p using (topic, partition)

-- advance --
insert into mirror_progress (topic, partition, next_offset)
select * from unnest($1::text[], $2::integer[], $3::bigint[]) as g (topic, partition, next_offset)
order by topic, partition
on conflict (topic, partition) do update set next_offset = excluded.next_offset

-- is_anew --
-- Whether this transaction has added a sighting at an offset at which the site's topic had another message before.
select exists (
    select
    from sightings as s
    join sightings as o using (topic, partition, "offset")
    where s.topic = $1 and s.partition = $2 and s."offset" between $3 and $4
        and s.mirrored_offset is not null and s.seen_at = now()
        and o.mirrored_offset is not null and o.record_id <> s.record_id
        and (o.seen_at < now() or o.mirrored_offset < s.mirrored_offset)
)

-- lock --
-- One at a time: ranges are merged.
select pg_advisory_xact_lock($1)

-- touching --
delete from mirror_losses
where site = $1 and topic = $2 and partition = $3 and reason = $6
    and first_offset <= $5::bigint + 1 and last_offset >= $4::bigint - 1
returning first_offset, last_offset, noticed_at

-- add --
insert into mirror_losses (site, topic, partition, first_offset, last_offset, reason, noticed_at)
values ($1, $2, $3, $4, $5, $6, coalesce($7, now()))
on conflict do nothing

-- take_gaps --
delete from mirror_losses
where site = $1 and topic = $2 and partition = $3 and reason = 'gap'
    and noticed_at < now() - $4::double precision * interval '1 second'
returning first_offset, last_offset

-- listed --
select
    site, topic, partition, first_offset, last_offset, reason,
    (extract(epoch from noticed_at) * 1000000)::bigint as noticed_at_us
from mirror_losses
order by noticed_at desc, site, topic, partition, first_offset
limit $1
