from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas.codec import decode, encode
from headrace.schemas.events import Ingested
from headrace.streams.relay.ingested_bytes import SCHEMA, ingested_bytes

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
longs = st.integers(-(2**63), 2**63 - 1)
ints = st.integers(-(2**31), 2**31 - 1)
events = st.builds(
    Ingested,
    **dict.fromkeys(("source_id", "site", "event_id", "record_id", "kind", "digest", "media_type", "store_key"), texts),
    **dict.fromkeys(("captured_at_us", "sequence", "ingested_at_us", "size_bytes"), longs),
    **dict.fromkeys(("store_offset", "duration_us"), st.none() | longs),
    **dict.fromkeys(("width", "height"), st.none() | ints),
    **dict.fromkeys(("ldo_id", "code", "about"), st.none() | texts),
    attributes=st.binary(max_size=20_000),
)


@given(events)
def test_the_bytes_are_those_of_the_general_writer(event: Ingested):
    assert ingested_bytes(event) == encode(event)
    assert decode(ingested_bytes(event), Ingested) == event


def test_the_schema_is_still_the_one_that_was_written_by_hand():
    assert SCHEMA.version == 1
