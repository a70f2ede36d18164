-- Since when the bytes are in the archive, where key and offset then lie; null while they are in the store.
alter table blobs add column archived_at timestamptz;

-- When the bytes came back from the archive; they stay for a while before they go there again.
alter table blobs add column restored_at timestamptz;

-- Objects that a move wrote, or is to remove: whatever no row names there goes (store/archives.py).
create table leavings (
    place text collate "C" not null check (place in ('store', 'archive')),
    store_key text collate "C" not null,
    primary key (place, store_key)
);
