alter table erased_announcements
    add column is_part boolean not null default false,
    add column noted_at timestamptz not null default now();

create index erased_announcements_by_erasure on erased_announcements (erasure_id);
create index erased_announcements_by_time on erased_announcements (noted_at);
