-- An idempotency key is claimed for as long as its gateway renews the claim.
alter table idempotency add column alive_at timestamptz not null default now();
