-- Why a row cannot be published; such a row is kept until it can be.
alter table outbox add column set_aside text;

create index outbox_set_aside on outbox (id) where set_aside is not null;

drop index outbox_unpublished;
create unique index outbox_unpublished on outbox (topic, id) where published_at is null;
