-- Kafka's id of the topic: one that is made anew has another, and offsets of its own.
alter table ingest_progress add column topic_id text;
