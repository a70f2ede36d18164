-- A replay repeats the Location of the first response, not only its body.
alter table idempotency add column location text;
