"""Relays that forget a step: one reads nothing that is published, one marks its rows before Kafka has them."""

from headrace.streams.relay.topic_relay import TopicRelay
from tests.simulation.simulation_mutants import MarkBeforeSend, NoLookBack


def without_catch_up() -> None:
    """Let a new leader begin with the rows that are not marked, whatever is published."""
    TopicRelay._catch_up = NoLookBack._catch_up  # type: ignore[method-assign, assignment]


def marking_first() -> None:
    """Mark the rows of a transaction, and then publish it."""
    TopicRelay._announce = MarkBeforeSend._announce  # type: ignore[method-assign, assignment]
