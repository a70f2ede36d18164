-- Marks of objects that are about to be deleted; see headrace/store/catalog/orphan_gc.py.

-- try_lock --
select pg_try_advisory_lock($1)

-- unlock --
select pg_advisory_unlock($1)

-- remaining_s --
-- Seconds until the youngest mark may be released; null if there is none.
select ceil(extract(epoch from max(marked_at) + $1::integer * interval '1 second' - now()))::integer from collecting

-- set_lock_timeout --
set local lock_timeout = '10s'

-- lock_exclusive --
select pg_advisory_xact_lock($1)

-- mark --
insert into collecting (store_key)
select unnest($1::text[])
on conflict (store_key) do update set marked_at = excluded.marked_at

-- unreferenced --
select wanted.store_key
from unnest($1::text[]) as wanted (store_key)
where not exists (select from blobs_of(wanted.store_key) as b where b.archived_at is null)

-- release --
with released as (delete from collecting returning store_key)
update collection
set generation = generation + 1
where exists (select from released)

-- take_over --
-- The lock is tried only if there is an expired mark, and ends with the transaction.
with old as materialized (
    select count(*) as number from collecting where marked_at < now() - $2::integer * interval '1 second'
), free as materialized (
    select pg_try_advisory_xact_lock($1) as alone from old where number > 0
), released as (
    delete from collecting where exists (select from free where alone) returning store_key
)
update collection
set generation = generation + 1
where exists (select from released)
