"""A JSON value type: values are decoded before the pipeline sees them.

What cannot be decoded is skipped, as Faust does with a value of a wrong type: it acknowledges it first and reports it
afterwards, to a log (`faust/transport/conductor.py`, where `ValueDecodeError` is caught).
"""

from typing import Any

import orjson
from faust.types import TP

from headrace.streams.worker.faust import direct_consumer


def apply() -> None:
    """Skip what is no JSON."""
    deliver = direct_consumer.DirectConsumer._deliver

    async def decoded(self: Any, records: dict[Any, list[Any]], active: Any) -> None:
        decodable = {key: list(filter(_is_json, fetched)) for key, fetched in records.items()}
        await deliver(self, decodable, active)
        for key, fetched in records.items():
            if fetched and not decodable[key]:
                self.finish(TP(*key), fetched[-1].offset + 1, self.app.consumer_generation_id)

    direct_consumer.DirectConsumer._deliver = decoded  # type: ignore[assignment, method-assign]


def _is_json(record: Any) -> bool:
    try:
        orjson.loads(record.value)
    except orjson.JSONDecodeError:
        return False
    return True
