"""A fuzz target: whatever a record batch holds, its offsets are passed, and the batch after it is read."""

import struct
from collections import deque
from dataclasses import dataclass
from random import Random

from aiokafka.record.legacy_records import _LegacyRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from headrace.schemas.limits import MIB
from headrace.streams.core.delivery import UnreadableBytes
from headrace.streams.worker.faust.record_batches import Batches, PartitionRecords
from headrace.streams.worker.faust.record_reader import RecordReader
from tests.fuzzing.varints import mutated as mutated_number
from tests.fuzzing.varints import written
from tests.streams.streams_batches import builder

_PLACE = TopicPartition("edge.cids.v1", 0)
_FIRST = 100  # the mutated batch's first offset
_HEADER_BYTES = 61
_CRC_AT, _ATTRIBUTES_AT, _LAST_DELTA_AT = 17, 21, 23
_NUMBERS = struct.Struct(">q")
_FETCHES_MAX = 3  # one of them for a batch whose CRC is wrong
_READER = RecordReader(record_bytes_max=MIB, batch_bytes_max=4 * MIB)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that begins at offset 100; `last` is its last offset."""

    raw: bytes
    last: int
    is_mutated: bool = False


def seeds() -> list[Batch]:
    """Return batches of every version and codec, some with large messages."""
    made = []
    for compression in range(5):
        for size_bytes in (0, 60, 3000, 120_000):
            batch = builder([], compression=compression)
            for number in range(3):
                pairs = [("n", b"1"), ("m", None)] * number
                batch.append(number, 1_790_000_000_000 + number, b"key", bytes([65 + number]) * size_bytes, pairs)
            made.append(Batch(struct.pack(">q", _FIRST) + bytes(batch.build())[8:], _FIRST + 2))
    for version, codecs in ((0, 3), (1, 4)):
        for compression in range(codecs):
            old = _LegacyRecordBatchBuilderPy(version, compression, 10**6)
            old.append(0, 1_790_000_000_000, b"key", b"value" * 20)
            made.append(Batch(struct.pack(">q", _FIRST) + bytes(old.build())[8:], _FIRST))
    return made


def mutated(batch: Batch, random: Random) -> Batch:
    """Return a batch with one to three changes; mostly its length and CRC fit, as a broker makes sure of."""
    raw = bytearray(batch.raw)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(_ATTRIBUTES_AT, len(raw))
        match random.randrange(6):
            case 0:
                raw[at] = random.randrange(256)
            case 1:
                raw[at : at + 1] = mutated_number(written(random.randrange(-70, 70)), random)
            case 2:
                del raw[at : at + random.randrange(1, 20)]
            case 3:
                raw[at:at] = random.randbytes(random.randrange(1, 20))
            case 4:
                raw[_ATTRIBUTES_AT + 1 : _ATTRIBUTES_AT + 2] = bytes([random.randrange(8)])
            case _:
                raw = raw[:at]
        raw = raw[: max(len(raw), 1)] + bytes(max(0, _ATTRIBUTES_AT + 2 - len(raw)))
    # What a broker checks of every batch: its offsets, and that only itself writes control batches.
    if raw[16] == 2 and len(raw) >= _HEADER_BYTES:
        struct.pack_into(">i", raw, _LAST_DELTA_AT, batch.last - _FIRST)
        raw[_ATTRIBUTES_AT + 1] &= 0x0F
    struct.pack_into(">i", raw, 8, len(raw) - 12)
    if raw[16] == 2 and random.random() < 0.9:
        struct.pack_into(">I", raw, _CRC_AT, calc_crc32c(bytes(raw[_ATTRIBUTES_AT:])))
    return Batch(bytes(raw), batch.last, is_mutated=True)


def try_batch(batch: Batch) -> bool:
    """Read a batch and one after it; return whether every message of it could be read.

    Raises:
        AssertionError: a message is missing or comes twice, or the batch after it is not read.
    """
    after = _NUMBERS.pack(batch.last + 1) + bytes(builder([(b"after", [])]).build())[8:]
    suspects: deque[bytes] = deque(maxlen=8)
    fetch_offset, fetched = _FIRST, []
    for _ in range(_FETCHES_MAX):
        raw = (batch.raw if fetch_offset <= batch.last else b"") + after
        records = PartitionRecords(
            _PLACE, Batches(raw, _READER, suspects), [], fetch_offset, None, None, True, "read_committed"
        )
        fetched += list(records)
        fetch_offset = records.next_fetch_offset
        if fetch_offset > batch.last + 1:
            break
    offsets = [record.offset for record in fetched]
    assert offsets == sorted(set(offsets)), f"offsets {offsets}"
    assert fetched[-1].offset == batch.last + 1, f"offsets {offsets}"
    assert fetched[-1].value == b"after"
    assert fetch_offset == batch.last + 2
    return not any(isinstance(record.value, UnreadableBytes) for record in fetched)
