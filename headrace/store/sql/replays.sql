-- The replays, and what each selected; see headrace/store/catalog/replays.py. Words in braces are replaced by parts of
-- this file and of announcements.sql.

-- selected --
-- What stands in braces is the row that says when, where and by which source.
($1::text[] is null or r.kind = any($1))
    and ($2::text[] is null or {said}.site = any($2))
    and ($3::text[] is null or {said}.source_id = any($3))
    and ($4::bigint is null or {said}.captured_at >= timestamptz 'epoch' + $4 * interval '1 microsecond')
    and ($5::bigint is null or {said}.captured_at < timestamptz 'epoch' + $5 * interval '1 microsecond')
    and ($6::bigint is null or {said}.ingested_at >= timestamptz 'epoch' + $6 * interval '1 microsecond')
    and ($7::bigint is null or {said}.ingested_at < timestamptz 'epoch' + $7 * interval '1 microsecond')
    and ($8::uuid[] is null or r.record_id = any($8))
    and ($9::text is null or exists (
        select from labels as l
        where l.version = $9 and l.record_id = r.record_id
            and case when $10::text[] is null then l.label is not null else l.label = any($10) end
    ))

-- not_own --
and not $11::boolean

-- plan --
select
    said.kind, count(*) as items, coalesce(sum(said.size_bytes), 0)::bigint as bytes,
    count(*) filter (where b.archived_at is not null) as archived,
    coalesce(sum(said.size_bytes) filter (where b.archived_at is not null), 0)::bigint as archived_bytes,
    count(*) filter (where b.sha256 is null) as missing,
    (extract(epoch from min(said.captured_at)) * 1000000)::bigint as first_us,
    (extract(epoch from max(said.captured_at)) * 1000000)::bigint as last_us
from ({announced}) as said
left join blobs as b on b.sha256 = said.digest
group by said.kind
order by said.kind

-- origins --
select said.site, count(distinct said.source_id) as sources, count(*) as items
from ({announced}) as said
group by said.site
order by said.site

-- absent --
-- Of digests, each with the ids that a record of it can have: how many have no record, and how many of these were erased.
select
    count(*) filter (where not is_there) as unknown,
    count(*) filter (where not is_there and exists (select from tombstones as t where t.digest = d.digest)) as erased
from (
    select digest, bool_or(exists (select from records as r where r.record_id = g.record_id)) as is_there
    from unnest($1::bytea[], $2::uuid[]) as g (digest, record_id)
    group by digest
) as d

-- choose --
insert into replay_items (replay_id, position, record_id, site)
select
    $12,
    row_number() over (order by said.captured_at, said.site, said.source_id, said.sequence, said.record_id),
    said.record_id, said.further
from ({announced}) as said

-- begin --
insert into replays (name, replay_id, request, items) values ($1, $2, $3::json, $4)

-- replay --
select replay_id, request::text as request, items, position, ended_at is not null as has_ended
from replays
where name = $1

-- schedule --
-- The next items; the time is null where the record, or what a site said of it, is no longer there.
select
    i.position, i.record_id,
    (
        extract(epoch from case when i.site is null then r.captured_at else n.captured_at end) * 1000000
    )::bigint as captured_at_us,
    b.archived_at is not null as is_archived
from replay_items as i
left join records as r on r.record_id = i.record_id
left join site_records as n on n.record_id = i.record_id and n.site = i.site
left join blobs as b on b.sha256 = r.digest
where i.replay_id = $1 and i.position > $2
order by i.position
limit $3

-- events --
select {columns}, i.position
from replay_items as i
join lateral ({announced}) as said on true
join blobs as b on b.sha256 = said.digest
where i.replay_id = $1 and i.position > $2 and i.position <= $3
order by i.position

-- item_of_record --
i.site is null and r.record_id = i.record_id

-- item_of_site --
n.record_id = i.record_id and n.site = i.site

-- moved --
update replays set position = $2 where replay_id = $1 and position < $2

-- end --
with gone as (delete from replay_items where replay_id = $1)
update replays set position = items, ended_at = coalesce(ended_at, now()) where replay_id = $1
