-- Expiry of the outbox, of what a recovery learned, of erased announcements, and of what lay in packs that are gone; see headrace/store/catalog/expiry.py.

-- since --
-- Locks the row, so two runs take turns.
select outbox_pruned_until, now() - $1::integer * interval '1 day' from collection for update

-- until --
-- The end of a window of $3 rows, with all rows that have the time of its last one.
select created_at + interval '1 microsecond'
from outbox
where created_at >= $1 and created_at < $2
order by created_at
offset $3 - 1
limit 1

-- unannounced --
-- Records of a window without a row of their own time. A repair of an earlier version gave rows another time.
select r.record_id
from unnest(array['cid', 'frame', 'clip', 'ldo']) as wanted (kind)
join records as r on r.kind = wanted.kind and r.ingested_at >= $1 and r.ingested_at < $2
where not exists (
    select from outbox as o
    where o.created_at = r.ingested_at and o.record_id = r.record_id and o.created_at >= $1 and o.created_at < $2
)

-- without_row --
-- Scans the outbox: only for the records of a window that has no row at their time.
select a.record_id
from unnest($1::uuid[]) as a (record_id)
where not exists (select from outbox as o where o.record_id = a.record_id)
    and not exists (select from transfers as t where t.record_id = a.record_id)
limit 1

-- remove --
delete from outbox
where created_at >= $1 and created_at < $2 and published_at is not null and set_aside is null

-- pruned_until --
update collection set outbox_pruned_until = $1

-- remove_left --
-- Rows that were published after their window was pruned.
delete from outbox
where ctid = any(array(
    select ctid
    from outbox
    where created_at < (select outbox_pruned_until from collection) and published_at is not null and set_aside is null
    order by created_at
    limit $1
))

-- forget_learned --
delete from announced
where ctid = any(array(
    select ctid from announced where learned_at < now() - $1::integer * interval '1 day' order by learned_at limit $2
))

-- forget_erased --
delete from erased_announcements
where ctid = any(array(
    select ctid
    from erased_announcements
    where noted_at < now() - $1::integer * interval '1 day'
        and erasure_id not in (select erasure_id from erasures where ended_at is null)
    order by noted_at
    limit $2
))

-- forget_items --
delete from replay_items
where ctid = any(array(
    select i.ctid
    from replays as r
    join replay_items as i using (replay_id)
    where r.began_at < now() - $1::integer * interval '1 day'
    limit $2
))

-- forget_replays --
delete from replays
where ctid = any(array(
    select r.ctid
    from replays as r
    where r.began_at < now() - $1::integer * interval '1 day'
        and not exists (select from replay_items as i where i.replay_id = r.replay_id)
    limit $2
))

-- forget_copies --
delete from pack_copies
where ctid = any(array(
    select c.ctid
    from pack_copies as c
    where not exists (select from blobs_of(c.store_key) as b where (b.archived_at is not null) = (c.place = 'archive'))
    limit $1
))
