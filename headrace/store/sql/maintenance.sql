-- When each job of `headrace maintenance` last succeeded; see headrace/store/catalog/maintenance_runs.py.

-- add --
-- A job that has never run waits for its next hour, so an upgrade starts nothing at once.
insert into maintenance_runs (job) select unnest($1::text[]) on conflict do nothing

-- due --
-- Jobs that have not succeeded since the hour last came, and PostgreSQL's time.
select r.job, now()
from maintenance_runs as r, (select date_trunc('day', now(), 'UTC') + $2::integer * interval '1 hour' as today) as at
where r.job = any($1::text[])
    and r.succeeded_at < case when today <= now() then today else today - interval '1 day' end

-- check --
select from maintenance_runs where false

-- succeeded --
update maintenance_runs set succeeded_at = $2 where job = $1
