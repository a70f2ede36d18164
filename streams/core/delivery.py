from dataclasses import dataclass
from typing import TypeAlias

HeaderPairs: TypeAlias = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as Kafka delivered it: where it stood, and its bytes."""

    topic: str
    partition: int
    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes | None
    headers: HeaderPairs

    @property
    def size_bytes(self) -> int:
        """Bytes that it holds in memory, headers aside."""
        return len(self.value or b"") + len(self.key or b"")
