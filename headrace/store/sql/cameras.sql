-- Configurations of cameras. A change is made only if the version it is based on is the current one.
-- Words in braces are replaced by the fixed parts at the end of this file, and `within` by that of queries.sql.

-- add --
insert into cameras (site, camera_id, settings, calibration)
values ($1, $2, $3::json, $4::json)
on conflict do nothing
returning {columns}

-- camera --
select {columns} from cameras where site = $1 and camera_id = $2

-- page --
-- $4: 'site/source' or 'site/*', the reader's scopes.
select {columns}
from cameras
where (site, camera_id) > ($1, $2)
    and ($3::text is null or site = $3)
    and ($4::text[] is null or {within})
order by site, camera_id
limit $5

-- replace --
update cameras
set settings = $3::json, calibration = $4::json, version = version + 1, updated_at = now()
where site = $1 and camera_id = $2 and ($5::integer[] is null or version = any($5))
returning {columns}

-- delete --
delete from cameras
where site = $1 and camera_id = $2 and ($3::integer[] is null or version = any($3))
returning version

-- columns --
site, camera_id, settings::text as settings, calibration::text as calibration, version,
(extract(epoch from created_at) * 1000000)::bigint as created_at_us,
(extract(epoch from updated_at) * 1000000)::bigint as updated_at_us
