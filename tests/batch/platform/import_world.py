"""An import between two fake APIs, and what it publishes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson

from headrace.batch.platform.api import RequestPolicy
from headrace.batch.platform.factory import ImportEndpoints, load_credentials, open_import
from headrace.batch.platform.options import ImportOptions
from headrace.batch.platform.run import ImportRun
from headrace.runtime.addresses import Network, networks_of
from headrace.runtime.backoff import Backoff
from headrace.schemas.events import Origin
from tests.batch.platform.alert_server import DAYS, FIRST_DAY, SEQUENCES, PlatformServer, picture
from tests.batch.platform.annotation_server import AnnotationServer
from tests.batch.platform.import_program import Silent

LAST_DAY = (FIRST_DAY + timedelta(days=DAYS - 1)).date()
DETECTIONS = 3 * SEQUENCES
QUICK_RETRIES = Backoff(0.01, 60.0)
POLICY = RequestPolicy(backoff=QUICK_RETRIES, answer_s_max=5)


@dataclass
class ImportWorld:
    """The two servers, and what was published here: by detection, the picture and its attributes."""

    platform: PlatformServer
    annotation: AnnotationServer
    folder: Path
    published: dict[int, tuple[bytes, Origin, Any]] = field(default_factory=dict)
    publications: int = 0
    networks: Sequence[Network] = networks_of("127.0.0.0/8")

    async def _publish(self, body: bytes, origin: Origin, attributes: bytes) -> None:
        self.publications += 1
        self.published[origin.sequence] = body, origin, orjson.loads(attributes)

    def run(self, *, policy: RequestPolicy = POLICY, platform_url: str | None = "", **changes: Any) -> ImportRun:
        endpoints = ImportEndpoints(
            platform_url=self.platform.url if platform_url == "" else platform_url,
            annotation_url=self.annotation.url,
            credentials=load_credentials(platform_needed=True),
            policy=policy,
            networks=self.networks,
        )
        options = ImportOptions(**{"first": FIRST_DAY.date(), "last": LAST_DAY, "source": "pyronear_french"} | changes)

        async def whole() -> ImportRun:
            async with open_import(
                endpoints, options, Silent(), publish=self._publish, state_folder=self.folder
            ) as item:
                await item.run()
                return item

        return asyncio.run(whole())

    def is_whole(self) -> bool:
        """Whether everything arrived, once."""
        content = self.annotation.content()
        expected = {
            row["id"]: sorted(detection["id"] for detection in self.platform.detections[row["id"]])
            for row in self.platform.sequences
        }
        assert {number: detections for number, (detections, _) in content.items()} == expected
        assert all(len(tracks) > 1 and tracks[-1] == "ready_to_annotate" for _, tracks in content.values())
        assert {number: body for number, (body, *_) in self.published.items()} == {
            number: picture(number) for numbers in expected.values() for number in numbers
        }
        return True


def numbers(item: ImportRun) -> tuple[int, int, int, int]:
    output = item.statistics
    return output.total, output.successful, output.failed, output.annotations_created
