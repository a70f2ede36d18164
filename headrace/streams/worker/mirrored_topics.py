"""The input topics of a worker: this cluster's own, and every site's mirrored ones as they appear and go.

Faust subscribes to names only, so the names are looked up again and again. A change costs the group one rebalance.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.runtime.acl import Operation
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config, kafka_failed, require_topics
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic, input_topics, site_of_topic

LOOK_S = 5.0
_REQUEST_S = 10.0


class InputTopics:
    """The names of the topics of each kind, kept up to date by `follow`; Faust's topics share the lists."""

    def __init__(self, settings: Settings, kinds: frozenset[Kind]) -> None:
        self._settings = settings
        self._admin = AdminClient(client_config(settings))
        self._refused: set[str] = set()
        self.by_kind: dict[Kind, list[str]] = {kind: [input_topic(kind).name] for kind in sorted(kinds)}

    @property
    def names(self) -> list[str]:
        """All names."""
        return [name for names in self.by_kind.values() for name in names]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names as they are now."""
        return iter(self.names)

    def look(self) -> bool:
        """Look for mirrored topics that this process may read; returns whether something has changed. Blocks.

        Raises:
            HeadraceError: Kafka does not answer.
        """
        current = self._readable(self._existing())
        if current == self.by_kind:
            return False
        before = set(self.names)
        for kind, names in current.items():
            self.by_kind[kind][:] = names
        added, gone = sorted(set(self.names) - before), sorted(before - set(self.names))
        get_log().info(Action.TOPICS_CHANGED, added=added, gone=gone)
        return True

    async def follow(self, app: Any) -> None:
        """Look again and again, and have a Faust app that runs subscribe anew after each change."""
        behind = False
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                behind = await asyncio.to_thread(self.look) or behind
            except HeadraceError:
                continue  # readiness reports a broker that does not answer
            if behind and not app.rebalancing:
                await app.resubscribe()
                behind = False

    def _existing(self) -> dict[Kind, list[str]]:
        try:
            existing = self._admin.list_topics(timeout=_REQUEST_S).topics
        except KafkaException as error:
            raise kafka_failed(self._settings, error.args[0]) from None
        return input_topics(self.by_kind, [name for name, topic in existing.items() if topic.partitions])

    def _readable(self, existing: Mapping[Kind, list[str]]) -> dict[Kind, list[str]]:
        """Leave out the mirrored topics that this process may not read: one site must not stop the others."""
        known = set(self.names)
        return {
            kind: [name for name in names if site_of_topic(name) is None or name in known or self._may_read(name)]
            for kind, names in existing.items()
        }

    def _may_read(self, name: str) -> bool:
        try:
            require_topics(self._settings, self._admin, {name: Operation.READ})
        except HeadraceError as error:
            if name not in self._refused:
                get_log().error(Action.TOPICS_CHANGED, topic=name, why=error.what, hint="it is not ingested until then")
            self._refused.add(name)
            return False
        self._refused.discard(name)
        return True
