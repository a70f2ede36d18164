-- Labels of records. Words in braces are replaced by parts of queries.sql and exports.sql.

-- begin --
insert into label_versions (version, module_sha256, functions)
values ($1, $2, $3)
on conflict do nothing

-- version --
select version, encode(module_sha256, 'hex') as module_sha256, functions from label_versions where version = $1

-- newest_versions --
select version from label_versions order by created_at desc, version limit $1

-- unlabelled --
select {columns}
from records as r
left join blobs as b on b.sha256 = r.digest
where {selected} and not exists (select from labels as l where l.version = $10 and l.record_id = r.record_id)
order by r.record_id
limit $9

-- lock_shared --
select pg_advisory_xact_lock_shared($1)

-- add --
-- Two runs of a version may label the same record; the result is the same. A record that was erased meanwhile has none.
insert into labels (version, record_id, label, votes, errors)
select $1, w.record_id, w.label, w.votes::json, w.errors::json
from unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) as w (record_id, label, votes, errors)
join records as r using (record_id)
order by w.record_id
on conflict do nothing

-- page --
select record_id, label, votes::text, errors::text
from labels
where version = $1 and record_id > $2
order by record_id
limit $3
