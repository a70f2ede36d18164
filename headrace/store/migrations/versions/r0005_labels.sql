-- Sets of labelling functions; a version is never changed, so what it said of a record stays what it would say.
create table label_versions (
    version text collate "C" primary key,
    module_sha256 bytea not null check (octet_length(module_sha256) = 32),
    -- In the order of the module, which decides between labels that have as many votes.
    functions text[] not null,
    created_at timestamptz not null default now()
);

-- What a version says of each record that it was shown. label is null where every function abstained or raised.
create table labels (
    version text collate "C" not null,
    record_id uuid not null,
    label text collate "C",
    -- {function: label} of those that voted, {function: error} of those that raised.
    votes json not null,
    errors json not null,
    labelled_at timestamptz not null default now(),
    primary key (version, record_id)
);
