"""Numbers as Avro and Kafka write them: zigzag, seven bits to a byte, the lowest first."""

from random import Random

_BITS = 64
_BYTES_MAX = 10
INTERESTING = (0, 1, -1, 2, 63, 64, 127, 128, 2**15, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, -(2**63))


def written(value: int) -> bytes:
    """Return a number in its shortest form."""
    rest = (value << 1) ^ (value >> _BITS)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def read(raw: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and its end.

    Raises:
        ValueError: it ends with `raw`, or has more than ten bytes or 64 bits.
    """
    value = 0
    for index, byte in enumerate(raw[at : at + _BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> _BITS:
                raise ValueError("more than 64 bits")
            return (value >> 1) ^ -(value & 1), at + index + 1
    raise ValueError("no end")


def mutated(raw: bytes, random: Random) -> bytes:
    """Return another number, or the same one in another form, or what is no number at all."""
    value, _ = read(raw, 0)
    match random.randrange(6):
        case 0:
            return written(value + random.choice((-2, -1, 1, 2)))
        case 1:
            return written(random.choice(INTERESTING))
        case 2:  # longer than it need be
            shortest = written(value)
            padding = bytes([0x80] * random.randrange(_BYTES_MAX + 2))
            return shortest[:-1] + bytes([shortest[-1] | 0x80]) + padding + b"\0"
        case 3:  # ten bytes, with bits beyond the 64th in the last
            low = (value << 1) ^ (value >> _BITS)
            body = [(low >> (7 * index)) & 0x7F | 0x80 for index in range(_BYTES_MAX - 1)]
            return bytes([*body, random.randrange(0x100)])
        case 4:
            return bytes(random.randrange(0x80, 0x100) for _ in range(random.randrange(1, _BYTES_MAX + 3)))
        case _:
            return random.randbytes(random.randrange(4))
