"""An import in a process of its own, which ends itself, without a word, when it has published so many frames."""

import asyncio
import os
import sys
from datetime import date
from pathlib import Path

from headrace.batch.platform.api import RequestPolicy
from headrace.batch.platform.factory import ImportEndpoints, load_credentials, open_import
from headrace.batch.platform.options import ImportOptions
from headrace.runtime.addresses import networks_of
from headrace.runtime.backoff import Backoff
from headrace.schemas.events import Origin


class Silent:
    def expect(self, what: str, number: int) -> None: ...

    def advance(self, what: str) -> None: ...


async def main(platform_url: str, annotation_url: str, folder: Path, first: date, last: date, ends_after: int) -> None:
    number = 0

    async def publish(_body: bytes, origin: Origin, _attributes: bytes) -> None:
        nonlocal number
        number += 1
        with (folder / "published").open("a") as file:
            file.write(f"{origin.sequence}\n")
        if number == ends_after:
            os._exit(9)

    endpoints = ImportEndpoints(
        platform_url=platform_url,
        annotation_url=annotation_url,
        credentials=load_credentials(platform_needed=True),
        networks=networks_of("127.0.0.0/8"),
        policy=RequestPolicy(backoff=Backoff(0.01, 60.0)),
    )
    options = ImportOptions(first=first, last=last, source="pyronear_french")
    async with open_import(endpoints, options, Silent(), publish=publish, state_folder=folder) as opened_import:
        await opened_import.run()


if __name__ == "__main__":
    days = [date.fromisoformat(text) for text in sys.argv[4:6]]
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), days[0], days[1], int(sys.argv[6])))
