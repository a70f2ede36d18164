from dataclasses import dataclass
from typing import TypeAlias

from headrace.schemas.headers import Redrive

HeaderPairs: TypeAlias = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class ConsumedMessage:
    """One message as Kafka delivered it: where it stood, and its bytes.

    With `redrive` it is a dead letter's, published again, and where it stood is where it stood the first time.
    """

    topic: str
    partition: int
    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes | None
    headers: HeaderPairs
    redrive: Redrive | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes that it holds in memory, headers aside."""
        return len(self.value or b"") + len(self.key or b"")
