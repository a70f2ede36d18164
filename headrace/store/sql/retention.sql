-- Retention rules and legal holds; see headrace/store/catalog/retention.py.

-- set_rule --
insert into retention_rules (kind, site, days) values ($1, $2, $3)
on conflict (kind, site) do update set days = excluded.days

-- remove_rule --
delete from retention_rules where kind = $1 and site = $2 returning kind

-- rules --
-- Those of a site first.
select kind, site, days from retention_rules order by kind, site = '', site

-- lock_shared --
select pg_advisory_xact_lock_shared($1)

-- place --
insert into holds (hold_id, record_id, site, source_id, reason, actor) values ($1, $2, $3, $4, $5, $6)

-- release --
update holds set released_at = now(), released_by = $2 where hold_id = $1 and released_at is null returning hold_id

-- holds --
select
    hold_id, record_id, site, source_id, reason, actor,
    (extract(epoch from placed_at) * 1000000)::bigint as placed_at_us,
    (extract(epoch from released_at) * 1000000)::bigint as released_at_us,
    released_by
from holds
where $1 or released_at is null
order by placed_at desc, hold_id
limit $2
