-- What `headrace erase` writes; see headrace/store/catalog/erasures.py. An empty site or source_id stands for any.

-- begin --
insert into erasures (erasure_id, site, source_id, actor, reason, keeps_out) values ($1, $2, $3, $4, $5, $6)

-- choose_records --
insert into erasure_subjects (erasure_id, subject_id, is_dead_letter)
select $1::uuid, record_id, false from records where record_id = any($2::uuid[])
on conflict do nothing

-- choose_origin --
-- One scan of all sightings: a record that came from the site or source, and first from elsewhere, is chosen too.
insert into erasure_subjects (erasure_id, subject_id, is_dead_letter)
select $1::uuid, record_id, false from records where site = $2 and $3 in ('', source_id)
union
select $1::uuid, record_id, false from sightings where site = $2 and $3 in ('', source_id)
union
-- Also if a retention was interrupted that had deleted its sightings.
select $1::uuid, record_id, false from site_records where site = $2 and $3 in ('', source_id)
union
select $1::uuid, dead_letter_id, true from dead_letters where site = $2 and $3 in ('', source_id)
on conflict do nothing

-- choose_expired --
-- Looks at the next records of a kind, by their time, and chooses those whose sightings are all older than the rule's
-- days: of its site, or without one all of them, if no site of theirs has a rule of its own. The page is limited before
-- the sightings are looked at.
with page as materialized (
    select record_id, ingested_at
    from records
    where kind = $2 and ingested_at < now() - $4::integer * interval '1 day'
        and (ingested_at, record_id) > (timestamptz 'epoch' + $5::bigint * interval '1 microsecond', $6::uuid)
    order by ingested_at, record_id
    limit $7
), chosen as (
    insert into erasure_subjects (erasure_id, subject_id, is_dead_letter)
    select $1::uuid, p.record_id, false
    from page as p
    where exists (select from sightings as s where s.record_id = p.record_id and $3 in ('', s.site))
        and not exists (
            select from sightings as s
            where s.record_id = p.record_id
                and (
                    s.seen_at >= now() - $4::integer * interval '1 day' and $3 in ('', s.site)
                    or $3 = '' and s.site in (select site from retention_rules where kind = $2)
                )
        )
    on conflict do nothing
)
select (extract(epoch from ingested_at) * 1000000)::bigint, record_id
from page
order by ingested_at desc, record_id desc
limit 1

-- covering_holds --
-- The holds that cover what an erasure has chosen.
select h.hold_id, h.reason
from holds as h
where h.released_at is null
    and exists (
        select from erasure_subjects as e
        left join sightings as s
            on s.record_id = e.subject_id and $2 in ('', s.site) and $3 in ('', s.source_id)
        left join dead_letters as d on d.dead_letter_id = e.subject_id
        where e.erasure_id = $1
            and (
                h.record_id = e.subject_id
                or h.site = s.site and h.source_id in ('', s.source_id)
                or h.site = d.site and h.source_id in ('', d.source_id)
            )
    )
order by h.placed_at
limit 5

-- keep_held --
-- Takes what a hold covers out of an erasure: of these, or of all that it has chosen.
with held as (
    delete from erasure_subjects as e
    using holds as h
    where h.released_at is null and e.erasure_id = $1 and ($4::uuid[] is null or e.subject_id = any($4))
        and (
            h.record_id = e.subject_id
            or exists (
                select from sightings as s
                where s.record_id = e.subject_id and s.site = h.site and h.source_id in ('', s.source_id)
                    and $2 in ('', s.site) and $3 in ('', s.source_id)
            )
            or exists (
                select from dead_letters as d
                where d.dead_letter_id = e.subject_id and d.site = h.site and h.source_id in ('', d.source_id)
            )
        )
    returning e.subject_id
), counted as (
    update erasures
    set subjects_held = subjects_held + (select count(distinct subject_id) from held)
    where erasure_id = $1 and exists (select from held)
)
select distinct subject_id from held

-- keep_young --
-- Takes records out of a retention, of these, that its rule does not cover by now: there is no rule any more, or they
-- were delivered within its days. So the conditions are those of choose_expired.
delete from erasure_subjects as e
where e.erasure_id = $1 and e.subject_id = any($3::uuid[]) and not e.is_dead_letter
    and not exists (
        select from records as r
        join retention_rules as t on t.kind = r.kind and t.site = $2
        where r.record_id = e.subject_id
            and not exists (
                select from sightings as s
                where s.record_id = r.record_id
                    and (
                        s.seen_at >= now() - t.days * interval '1 day' and $2 in ('', s.site)
                        or $2 = '' and s.site in (select o.site from retention_rules as o where o.kind = r.kind)
                    )
            )
    )
returning e.subject_id

-- count_origin --
select
    (
        select count(*) from (
            select record_id from records where site = $1 and $2 in ('', source_id)
            union
            select record_id from sightings where site = $1 and $2 in ('', source_id)
            union
            select record_id from site_records where site = $1 and $2 in ('', source_id)
        ) as chosen
    ) as records,
    (select count(*) from dead_letters where site = $1 and $2 in ('', source_id)) as dead_letters

-- unfinished --
select erasure_id, site, source_id, keeps_out from erasures where ended_at is null order by began_at, erasure_id

-- page --
select subject_id
from erasure_subjects
where erasure_id = $1 and is_dead_letter = $2
order by subject_id
limit $3

-- set_lock_timeout --
set local lock_timeout = '10s'

-- lock_exclusive --
select pg_advisory_xact_lock($1)

-- add_tombstones --
insert into tombstones (digest, site, source_id, erasure_id)
select distinct digest, $3::text, $4::text, $1::uuid from records where record_id = any($2::uuid[])
on conflict do nothing

-- delete_sightings --
-- At most $5 of them. The dead letters of the same messages were redriven: they hold the same bytes.
with gone as (
    delete from sightings
    where ctid = any(array(
        select ctid
        from sightings
        where record_id = any($2::uuid[]) and $3 in ('', site) and $4 in ('', source_id)
        limit $5
    ))
    returning record_id, site, source_id, topic, partition, "offset"
), noted as (
    insert into erasure_messages (erasure_id, topic, partition, "offset")
    select distinct $1::uuid, topic, partition, "offset" from gone
    on conflict do nothing
), letters as (
    insert into erasure_subjects (erasure_id, subject_id, is_dead_letter)
    select distinct $1::uuid, d.dead_letter_id, true
    from gone
    join dead_letters as d using (topic, partition, "offset")
    on conflict do nothing
)
select g.record_id, g.site, g.source_id, r.kind, r.digest
from (select distinct record_id, site, source_id from gone) as g
join records as r using (record_id)

-- still_seen --
-- Those that have more of these sightings.
select w.record_id
from unnest($1::uuid[]) as w (record_id)
where exists (
    select from sightings as s where s.record_id = w.record_id and $2 in ('', s.site) and $3 in ('', s.source_id)
)

-- note_exports --
-- The shards that can hold something of these records, as samples or as the clips of samples: by what the export has
-- selected, and by what the record or one of its deliveries says. Of an export that has not ended, also the shard that is
-- not finished. See split_of in headrace/batch/export/request.py.
with chosen as (
    select record_id, kind, digest, site, source_id, captured_at, ingested_at, clip_sha256
    from records
    where record_id = any($2::uuid[])
), samples as (
    select c.*, false as is_clip from chosen as c
    union all
    select r.record_id, r.kind, r.digest, r.site, r.source_id, r.captured_at, r.ingested_at, r.clip_sha256, true
    from chosen as c
    join records as r on r.clip_sha256 = c.digest
    where c.kind = 'clip'
), origins as (
    select record_id, site, source_id, captured_at from samples
    union
    select s.record_id, s.site, s.source_id, s.captured_at from samples join sightings as s using (record_id)
    union
    -- An earlier erasure gave the record to another source: an export may have had it of the first one.
    select a.subject_id, null, null, null from samples join erased_announcements as a on a.subject_id = record_id
    where a.is_part
), held as (
    select distinct e.host, e.target, e.ended_at, r.record_id, (
        ('x' || left(encode(coalesce(r.clip_sha256, r.digest), 'hex'), 13))::bit(52)::bigint::double precision
            / 4503599627370496 < e.validation_share
    ) as validates
    from samples as r
    join origins as o using (record_id)
    join export_runs as e
        on r.ingested_at < e.ingested_until
        and (e.kinds is null or r.kind = any(e.kinds))
        and (e.sites is null or o.site is null or o.site = any(e.sites))
        and (e.source_ids is null or o.source_id is null or o.source_id = any(e.source_ids))
        and (e.captured_from is null or o.captured_at is null or o.captured_at >= e.captured_from)
        and (e.captured_until is null or o.captured_at is null or o.captured_at < e.captured_until)
        and (not r.is_clip or e.format = 'webdataset')
)
insert into erasure_exports (erasure_id, host, target, shard)
select distinct $1::uuid, h.host, h.target, coalesce(s.name, '')
from held as h
left join export_shards as s
    on s.host = h.host and s.target = h.target and h.record_id between s.first_id and s.last_id
    and s.split = case when h.validates then 'validation' else 'train' end
where s.name is not null or h.ended_at is null
on conflict do nothing

-- exports --
select
    x.host, x.target, e.format,
    (extract(epoch from e.began_at) * 1000000)::bigint as began_at_us,
    (extract(epoch from e.ingested_until) * 1000000)::bigint as until_us,
    coalesce(e.ended_at is not null, false) as complete,
    (x.shards)[:$2::integer] as shards, cardinality(x.shards) as shards_total
from (
    select host, target, coalesce(array_agg(shard order by shard) filter (where shard <> ''), '{}') as shards
    from erasure_exports
    where erasure_id = $1
    group by host, target
) as x
left join export_runs as e using (host, target)
order by x.host, x.target

-- erase_site_records --
-- Returns the sites whose announcement of a record is about something erased, as give_to_others does: not where it is
-- still to be published, with what the other source said.
-- A further site keeps its row if another source of it delivered the bytes: as that one did.
with first as (
    select distinct on (record_id, site) record_id, site, source_id, captured_at, sequence
    from sightings
    where record_id = any($1::uuid[])
    order by record_id, site, seen_at, topic, partition, "offset", index
), given as (
    update site_records as n
    set source_id = f.source_id, captured_at = f.captured_at, sequence = f.sequence,
        attributes = '{}', about = null, traceparent = null
    from first as f
    where n.record_id = f.record_id and n.site = f.site and $2 in ('', n.site) and $3 in ('', n.source_id)
    returning n.record_id, n.site
), gone as (
    delete from site_records as n
    where
        record_id = any($1::uuid[])
        and not exists (select from sightings as s where s.record_id = n.record_id and s.site = n.site)
    returning record_id, site
), unannounced as (
    delete from outbox as o
    using gone
    where (o.published_at is null or o.set_aside is not null) and o.record_id = gone.record_id and o.site = gone.site
)
select record_id, site from gone
union all
select g.record_id, g.site
from given as g
where not exists (
    select from outbox as o where o.published_at is null and o.record_id = g.record_id and o.site = g.site
)

-- give_to_others --
-- A record that came from elsewhere too is now that of its first remaining sighting, at its own site if there is one,
-- or of that site's row. What else it says was said by the source that is erased.
with first as (
    select distinct on (s.record_id) s.record_id, s.site, s.source_id, s.captured_at, s.sequence
    from sightings as s
    join records as r using (record_id)
    where s.record_id = any($2::uuid[])
    order by s.record_id, s.site <> r.site, s.seen_at, s.topic, s.partition, s."offset", s.index
), given as (
    update records as r
    set site = f.site,
        source_id = coalesce(n.source_id, f.source_id),
        captured_at = coalesce(n.captured_at, f.captured_at),
        sequence = coalesce(n.sequence, f.sequence),
        attributes = coalesce(n.attributes, '{}'), about = n.about, traceparent = n.traceparent
    from first as f
    left join site_records as n on n.record_id = f.record_id and n.site = f.site
    where r.record_id = f.record_id and $3 in ('', r.site) and $4 in ('', r.source_id)
    returning r.record_id, n.site
), unannounced as (
    -- That site has an announcement of its own.
    delete from outbox as o
    using given as g
    where (o.published_at is null or o.set_aside is not null)
        and o.record_id = g.record_id and o.site is null and g.site is not null
), counted as (
    update erasures set records_kept = records_kept + (select count(*) from first) where erasure_id = $1
)
select g.record_id
from given as g
where g.site is not null
    or not exists (
        select from outbox as o where o.published_at is null and o.record_id = g.record_id and o.site is null
    )

-- delete_records --
delete from records as r
where record_id = any($1::uuid[]) and not exists (select from sightings as s where s.record_id = r.record_id)
returning record_id, kind, digest

-- note_announcements --
-- What retention erased may come again, and be announced and erased again.
insert into erased_announcements (event_id, subject_id, erasure_id, is_part)
select event_id, subject_id, $1::uuid, $4::boolean from unnest($2::uuid[], $3::uuid[]) as e (event_id, subject_id)
on conflict (event_id) do update
set erasure_id = excluded.erasure_id, is_part = excluded.is_part, noted_at = excluded.noted_at

-- forget_subjects --
-- Rows that are published stay until their retention, with ids only.
with untransferred as (
    delete from transfers where record_id = any($1::uuid[])
), unlabelled as (
    delete from labels
    where version in (select version from label_versions) and record_id = any($1::uuid[])
)
delete from outbox
where (published_at is null or set_aside is not null) and (record_id = any($1::uuid[]) or dead_letter_id = any($1::uuid[]))

-- delete_blobs --
-- Those that no record has any more; $2 are the ids of every record that could have one of the digests.
with freed as (
    select d.digest
    from unnest($1::bytea[]) as d (digest)
    where not exists (select from records as r where r.record_id = any($2::uuid[]) and r.digest = d.digest)
), gone as (
    delete from blobs where sha256 in (select digest from freed)
    returning sha256, store_key, archived_at
), copies as (
    delete from pack_copies where digest in (select digest from freed)
    returning place, store_key, digest
), noted as (
    insert into erasure_objects (place, store_key, digest)
    select case when archived_at is null then 'store' else 'archive' end, store_key, sha256 from gone
    union
    select place, store_key, digest from copies
    on conflict do nothing
)
select digest from freed

-- add_objects --
insert into erasure_objects (place, store_key, digest)
select $1::text, store_key, digest from unnest($2::text[], $3::bytea[]) as o (store_key, digest)
on conflict do nothing

-- delete_dead_letters --
with gone as (
    delete from dead_letters where dead_letter_id = any($2::uuid[])
    returning dead_letter_id, topic, partition, "offset", value
), marked as (
    insert into tombstones (digest, site, source_id, erasure_id)
    select distinct sha256(value), $3::text, $4::text, $1::uuid from gone where value is not null and $5::boolean
    on conflict do nothing
), noted as (
    insert into erasure_messages (erasure_id, topic, partition, "offset")
    select distinct $1::uuid, topic, partition, "offset" from gone
    on conflict do nothing
)
delete from redrives where dead_letter_id in (select dead_letter_id from gone)

-- done_subjects --
delete from erasure_subjects where erasure_id = $1 and subject_id = any($2::uuid[])

-- next_epoch --
update collection set generation = generation + 1

-- objects --
-- The objects after one, by place and key, each with a digest of what it holds.
select place, store_key, min(digest) as digest
from erasure_objects
where (place, store_key) > ($1, $2)
group by place, store_key
order by place, store_key
limit $3

-- members --
select sha256, size_bytes, store_offset
from blobs
where store_key = $1 collate "C" and store_offset is not null and (archived_at is not null) = ($2 = 'archive')
order by store_offset

-- done_object --
-- No bytes without a row are left in a pack that was written again or deleted.
with gone as (
    delete from erasure_objects where place = $1 and store_key = $2
    returning store_key
), copies as (
    delete from pack_copies where place = $1 and store_key = $2 and $4 <> 'kept'
)
update erasures
set
    objects_deleted = objects_deleted + case when $4 = 'deleted' then 1 else 0 end,
    packs_rewritten = packs_rewritten + case when $4 = 'rewritten' then 1 else 0 end
where erasure_id = $3 and exists (select from gone)

-- forget_requests --
-- What the gateway keeps of uploads: of a record the names and EXIF of its files, of a source or site everything.
with blanked as (
    update request_items as i
    set filename = null, exif = null
    from tombstones as t
    where t.erasure_id = $1 and i.digest = t.digest and $2 = ''
), asked as (
    delete from ingest_requests where site = $2 and $3 in ('', source_id)
    returning request_id
), items as (
    delete from request_items where request_id in (select request_id from asked)
), events as (
    delete from request_events where site = $2 and $3 in ('', source_id)
), sent as (
    delete from uploads as u
    where u.state in ('done', 'failed')
        and (
            u.site = $2 and $3 in ('', u.source_id)
            or $2 = '' and u.digest in (select digest from tombstones where erasure_id = $1)
        )
)
delete from sources where site = $2 and $3 in ('', source_id)

-- messages --
-- Ranges of offsets without gaps, at most so many; whether there are more shows in the number of rows.
select topic, partition, min("offset") as first_offset, max("offset") as last_offset
from (
    select
        topic, partition, "offset",
        "offset" - row_number() over (partition by topic, partition order by "offset") as island
    from erasure_messages
    where erasure_id = $1
) as m
group by topic, partition, island
order by topic, partition, first_offset
limit $2

-- message_bounds --
select topic, partition, min("offset") as first_offset, max("offset") as last_offset
from erasure_messages
where erasure_id = $1
group by topic, partition
order by topic, partition

-- summary --
select
    e.erasure_id, e.site, e.source_id, e.actor, e.reason,
    (extract(epoch from e.began_at) * 1000000)::bigint as began_at_us,
    (extract(epoch from now()) * 1000000)::bigint as now_us,
    e.objects_deleted, e.packs_rewritten, e.records_kept, e.subjects_held, e.keeps_out,
    (
        select count(distinct subject_id) from erased_announcements as a
        where a.erasure_id = e.erasure_id and not a.is_part
    ) as subjects,
    (select count(*) from tombstones as t where t.erasure_id = e.erasure_id) as tombstones,
    (
        select encode(sha256(string_agg(t.digest, ''::bytea order by t.digest)), 'hex')
        from tombstones as t
        where t.erasure_id = e.erasure_id
    ) as tombstones_sha256,
    array(
        select distinct subject_id from erased_announcements as a
        where a.erasure_id = e.erasure_id and not a.is_part
        order by subject_id
        limit $2
    ) as subject_ids
from erasures as e
where e.erasure_id = $1

-- has_announcements --
select exists (select from erased_announcements where erasure_id = $1)

-- announcements --
select event_id from erased_announcements where erasure_id = $1 and event_id = any($2::uuid[])

-- finish --
with ended as (
    update erasures set ended_at = now(), report = $2::json, signed = $3 where erasure_id = $1
), exports as (
    delete from erasure_exports where erasure_id = $1
)
delete from erasure_messages where erasure_id = $1
