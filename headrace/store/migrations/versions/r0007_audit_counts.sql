-- Requests of one minute that are alike are one row with their number; rows are listed and deleted by time.
alter table audit add column count bigint not null default 1 check (count > 0);

create index audit_by_time on audit (at, id);
