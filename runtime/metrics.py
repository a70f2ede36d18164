"""Every metric of every process, in one closed vocabulary.

A metric is declared here or does not exist; its labels are typed, so a dashboard's query that type-checks once holds.
Sizes are bytes, times are seconds. Source ids never become labels: their number is not bounded.
"""

from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Step(StrEnum):
    """Steps of a batch on its way into the store and the catalog."""

    DECODE = "decode"
    BLOBS = "blobs"
    CATALOG = "catalog"


class Service(StrEnum):
    """What a retry may wait for."""

    POSTGRES = "postgres"
    STORE = "store"


# Worker
worker_deliveries_total = Counter(
    "headrace_worker_deliveries_total", "Messages taken up, by outcome.", ["kind", "outcome"]
)  # outcome: stored, duplicate, rejected
worker_rejected_total = Counter("headrace_worker_rejected_total", "Dead letters, by reason.", ["kind", "code"])
worker_bytes_total = Counter("headrace_worker_bytes_total", "Bytes of bodies taken up.", ["kind"])
worker_step_seconds = Histogram(
    "headrace_worker_step_seconds", "Time that a batch spent in a step.", ["step"], buckets=_SECONDS
)
worker_batch_messages = Histogram(
    "headrace_worker_batch_messages", "Messages in a batch.", ["kind"], buckets=(1, 5, 10, 25, 50, 100, 250, 500, 1000)
)
worker_batches_in_flight = Gauge("headrace_worker_batches_in_flight", "Batches being stored.", ["kind"])
worker_retries_total = Counter("headrace_worker_retries_total", "Retries of transient faults.", ["service"])
worker_lag_messages = Gauge("headrace_worker_lag_messages", "Messages behind the end of the topic.", ["topic"])

# Relay
relay_announced_total = Counter("headrace_relay_announced_total", "Announcements published.", ["topic"])
relay_pending_rows = Gauge("headrace_relay_pending_rows", "Rows of the outbox that are not known to be announced.")
relay_passed_over_total = Counter(
    "headrace_relay_passed_over_total", "Rows that cannot be announced and were marked without it.", ["topic"]
)
relay_leading = Gauge("headrace_relay_leading", "1 while this relay is the active one.")
relay_restarts_total = Counter("headrace_relay_restarts_total", "Producers abandoned after an ambiguous error.")
relay_delay_seconds = Histogram(
    "headrace_relay_delay_seconds", "From the catalog's commit to the announcement's.", buckets=_SECONDS
)

# Consumers
consumer_events_total = Counter("headrace_consumer_events_total", "Events handled, by outcome.", ["group", "outcome"])
consumer_handle_seconds = Histogram(
    "headrace_consumer_handle_seconds", "Time to handle one event.", ["group"], buckets=_SECONDS
)

# Producers
producer_events_total = Counter("headrace_producer_events_total", "Events published, by outcome.", ["kind", "outcome"])
producer_spool_bytes = Gauge("headrace_producer_spool_bytes", "Bytes of the spool's files.")
producer_spool_waiting_events = Gauge("headrace_producer_spool_waiting_events", "Events that wait in the spool.")
producer_spool_lost_total = Counter(
    "headrace_producer_spool_lost_total", "Events that the spool could not keep, by reason.", ["reason"]
)  # reason: dropped, damaged
producer_bytes_in_flight = Gauge("headrace_producer_bytes_in_flight", "Bytes handed over but not yet acknowledged.")
