"""All metrics of all processes.

Sizes are in bytes, times in seconds. Source ids are never labels, because their number is unbounded.
"""

from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_SIZES = (1024, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864, 268_435_456, 1_073_741_824)


class Step(StrEnum):
    """The steps of ingesting a batch."""

    DECODE = "decode"
    BLOBS = "blobs"
    CATALOG = "catalog"


class Dependency(StrEnum):
    """The dependencies that a retry may wait for."""

    POSTGRES = "postgres"
    STORE = "store"


# Worker
worker_deliveries_total = Counter(
    "headrace_worker_deliveries_total", "Messages taken up, by outcome.", ["kind", "outcome"]
)  # outcome: stored, duplicate, rejected
worker_rejected_total = Counter("headrace_worker_rejected_total", "Dead letters, by reason.", ["kind", "code"])
worker_unset_clock_total = Counter(
    "headrace_worker_unset_clock_total", "Messages whose source had no clock: captured before 2000.", ["kind"]
)
worker_bytes_total = Counter("headrace_worker_bytes_total", "Bytes of bodies taken up.", ["kind"])
worker_step_seconds = Histogram(
    "headrace_worker_step_seconds", "Time that a batch spent in a step.", ["step"], buckets=_SECONDS
)
worker_batch_messages = Histogram(
    "headrace_worker_batch_messages", "Messages in a batch.", ["kind"], buckets=(1, 5, 10, 25, 50, 100, 250, 500, 1000)
)
worker_batches_in_flight = Gauge("headrace_worker_batches_in_flight", "Batches being stored.", ["kind"])
worker_retries_total = Counter("headrace_worker_retries_total", "Retries of transient faults.", ["service"])
worker_lost_messages_total = Counter(
    "headrace_worker_lost_messages_total", "Offsets that retention deleted before they were ingested.", ["topic"]
)
worker_unmirrored_offsets_total = Counter(
    "headrace_worker_unmirrored_offsets_total",
    "Offsets of sites' topics that mirrored ones left out.",
    ["site", "reason"],
)  # reason: gap, retention, truncated, made_anew
worker_source_losses_total = Counter(
    "headrace_worker_source_losses_total", "Events that sources report as lost by their spools, by reason.", ["reason"]
)  # reason: dropped, damaged
worker_lag_messages = Gauge("headrace_worker_lag_messages", "Messages behind the end of the topic.", ["topic"])

# Relay
relay_announced_total = Counter("headrace_relay_announced_total", "Announcements published.", ["topic"])
relay_pending_rows = Gauge("headrace_relay_pending_rows", "Rows of the outbox that are not known to be announced.")
relay_passed_over_total = Counter(
    "headrace_relay_passed_over_total", "Rows that cannot be announced and were set aside.", ["topic"]
)
relay_set_aside_rows = Gauge("headrace_relay_set_aside_rows", "Rows that are set aside: `headrace outbox` lists them.")
relay_abridged_total = Counter(
    "headrace_relay_abridged_total",
    "Announcements published in part because the topic takes no larger ones.",
    ["topic"],
)
relay_topic_failing = Gauge(
    "headrace_relay_topic_failing", "1 while the last attempt to announce to a topic failed.", ["topic"]
)
relay_leading = Gauge("headrace_relay_leading", "1 while this relay is the active one.")
relay_restarts_total = Counter("headrace_relay_restarts_total", "Producers abandoned after an ambiguous error.")
relay_delay_seconds = Histogram(
    "headrace_relay_delay_seconds", "From the catalog's commit to the announcement's.", buckets=_SECONDS
)

# Transfer
transfer_bytes_total = Counter("headrace_transfer_bytes_total", "Bytes of bodies read from sites' stores.", ["site"])
transfer_bodies_total = Counter("headrace_transfer_bodies_total", "Bodies of sites, by outcome.", ["site", "outcome"])
# outcome: arrived, known (here already), failed (tried again later)
transfer_waiting_bodies = Gauge("headrace_transfer_waiting_bodies", "Bodies that are still to be brought.", ["site"])
transfer_waiting_bytes = Gauge("headrace_transfer_waiting_bytes", "Their bytes.", ["site"])
transfer_refused_total = Counter(
    "headrace_transfer_refused_total", "Mirrored announcements that are not taken, by reason.", ["site", "code"]
)

# Mirror
mirror_lag_messages = Gauge("headrace_mirror_lag_messages", "Messages that wait at the source of a link.", ["link"])
mirror_lag_bytes = Gauge("headrace_mirror_lag_bytes", "Bytes that wait at the source of a link, estimated.", ["link"])
mirror_lag_seconds = Gauge("headrace_mirror_lag_seconds", "Age of the oldest message that waits.", ["link"])
mirror_retention_share = Gauge(
    "headrace_mirror_retention_share", "That age as a share of the retention at the source; alarm at 0.5.", ["link"]
)
mirror_tasks = Gauge("headrace_mirror_tasks", "Tasks of MirrorMaker, by state.", ["link", "state"])
mirror_reachable = Gauge("headrace_mirror_reachable", "1 while the source of a link answers.", ["link"])
mirror_lost_offsets_total = Counter(
    "headrace_mirror_lost_offsets_total",
    "Offsets that the source deleted before they were copied.",
    ["link", "topic"],
)

# Maintenance; Prometheus has a label `job` of its own
maintenance_runs_total = Counter("headrace_maintenance_runs_total", "Runs of jobs, by outcome.", ["task", "outcome"])
# outcome: succeeded, failed
maintenance_succeeded_timestamp_seconds = Gauge(
    "headrace_maintenance_succeeded_timestamp_seconds", "When this process last completed the job.", ["task"]
)

maintenance_disk_free_bytes = Gauge(
    "headrace_maintenance_disk_free_bytes", "Free bytes of the file system of HEADRACE_STATE_DIR, where there is one."
)

# Consumers
consumer_events_total = Counter("headrace_consumer_events_total", "Events handled, by outcome.", ["group", "outcome"])
consumer_handle_seconds = Histogram(
    "headrace_consumer_handle_seconds", "Time to handle one event.", ["group"], buckets=_SECONDS
)

# Producers
producer_events_total = Counter("headrace_producer_events_total", "Events published, by outcome.", ["kind", "outcome"])
producer_unset_clock_total = Counter(
    "headrace_producer_unset_clock_total", "Events captured before 2000, by a source without a clock.", ["kind"]
)
producer_spool_bytes = Gauge("headrace_producer_spool_bytes", "Bytes of the spool's files.")
producer_spool_waiting_events = Gauge("headrace_producer_spool_waiting_events", "Events that wait in the spool.")
producer_spool_lost_total = Counter(
    "headrace_producer_spool_lost_total", "Events that the spool could not keep, by reason.", ["reason"]
)  # reason: dropped, damaged, quarantined (kept, but not sent)
producer_bytes_in_flight = Gauge("headrace_producer_bytes_in_flight", "Bytes handed over but not yet acknowledged.")

# Capture
capture_streams = Gauge("headrace_capture_streams", "Cameras that are being captured.")
capture_frames_total = Counter("headrace_capture_frames_total", "Frames that cameras delivered.")
capture_reconnects_total = Counter("headrace_capture_reconnects_total", "Connections to cameras that were made again.")
capture_states_total = Counter("headrace_capture_states_total", "Changes of requests' states, by state.", ["state"])

# Gateway. The first four have the names that common dashboards expect.
http_requests_total = Counter("http_requests_total", "Requests answered.", ["method", "handler", "status"])
http_request_duration_seconds = Histogram(
    "http_request_duration_seconds", "Time until an answer was whole.", ["method", "handler"], buckets=_SECONDS
)
http_request_size_bytes = Histogram("http_request_size_bytes", "Bytes of request bodies.", ["handler"], buckets=_SIZES)
http_requests_in_progress = Gauge("http_requests_in_progress", "Requests being handled.", ["method"])
gateway_file_bytes = Histogram("headrace_gateway_file_bytes", "Sizes of uploaded files.", ["kind"], buckets=_SIZES)
gateway_chunk_bytes_per_second = Histogram(
    "headrace_gateway_chunk_bytes_per_second", "How fast the chunks of uploads came.", buckets=_SIZES
)
gateway_refused_total = Counter(
    "headrace_gateway_refused_total", "Responses with a status of 400 or more, by status.", ["code"]
)
gateway_buffer_bytes = Gauge("headrace_gateway_buffer_bytes", "Bytes of uploads reserved in memory.")
gateway_buffer_waiting = Gauge("headrace_gateway_buffer_waiting", "Uploads that wait for memory.")
gateway_answers_waiting = Gauge("headrace_gateway_answers_waiting", "Uploads that wait to be durable.")
gateway_streams = Gauge("headrace_gateway_streams", "WebSockets and event streams that are open.", ["kind"])
gateway_audit_dropped_total = Counter("headrace_gateway_audit_dropped_total", "Audit rows beyond what could wait.")
