"""A dead letter's message that was published again is the message that it was: it is taken up where it first stood.

So its sighting has the topic, partition and offset at which its source published it, and a redrive that publishes it
twice, because it was killed before it could note the first time, adds nothing: the sighting's key, or the dead letter's
id, is there already. One that is refused again remains the same dead letter, with one more attempt in its history.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from uuid import UUID

from headrace.schemas.digest import dead_letter_id
from headrace.schemas.headers import Redrive, redrive_of
from headrace.store.catalog.rows import Original
from headrace.streams.core.delivery import ConsumedMessage


def redrives_in(deliveries: Iterable[ConsumedMessage]) -> list[UUID]:
    """Return the dead letters that messages of a batch say they are, sorted."""
    said = (redrive_of(delivery.headers) for delivery in deliveries if delivery.headers)
    return sorted({redrive.dead_letter_id for redrive in said if redrive is not None})


def as_original(delivery: ConsumedMessage, originals: Mapping[tuple[UUID, int], Original]) -> ConsumedMessage:
    """Return a delivery as it first stood, and with its redrive; unchanged where it is no redrive that is known."""
    said = redrive_of(delivery.headers)
    original = originals.get((said.dead_letter_id, said.attempt)) if said else None
    if said is None or original is None or original.topic != delivery.topic:
        return delivery
    # The id says which bytes: under another dead letter's name nothing else can come in.
    if dead_letter_id(original.topic, original.partition, original.offset, delivery.value) != said.dead_letter_id:
        return delivery
    return replace(
        delivery,
        partition=original.partition,
        offset=original.offset,
        redrive=Redrive(said.dead_letter_id, said.attempt),
    )
