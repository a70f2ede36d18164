"""Old LDOs; and a catalog of the tests' own with a store and an archive, for moves that are ended anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from headrace.batch.archive.move import ArchiveReport, BodyMover, Route, Throttle
from headrace.batch.archive.plan import in_reading_order
from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.digest import blob_key, pack_key, sha256_hex
from headrace.schemas.events import Ldo
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.catalog.archives import Location, MovedBodies, StaleObject


def ldo(number: int, tag: str) -> Ldo:
    return Ldo(
        source_id="press-1",
        site="plant",
        captured_at_us=1_790_000_000_000_000 + number,
        sequence=number,
        ldo_id=f"{tag}-{number}",
        body=b'{"ldo_id":"%b-%d","sensor_data":{},"context":{},"prediction":{}}'
        % (
            tag.encode(),
            number,
        ),
    )


async def grow_old(sql: Any, ids: Sequence[str]) -> None:
    await sql.execute(
        "with old as (update records set ingested_at = ingested_at - interval '91 days' where ldo_id = any($1)"
        " returning record_id) update outbox set created_at = created_at - interval '91 days', published_at = now()"
        " where record_id in (select record_id from old)",
        ids,
    )


class Rows:
    """The rows of blobs and leavings, as `Archives` writes them."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, tuple[Location, BlobLocation]] = {}
        self.left: set[tuple[Location, str]] = set()

    async def expect(self, place: Location, store_key: str) -> None:
        self.left.add((place, store_key))

    async def note(self, moved: MovedBodies, to: Location) -> None:
        for digest, offset in zip(moved.digests, moved.offsets, strict=True):
            place, row = self.blobs[digest]
            assert place is not to
            self.blobs[digest] = (to, replace(row, store_key=moved.store_key, store_offset=offset))
        origin = Location.STORE if to is Location.ARCHIVE else Location.ARCHIVE
        self.left |= {(origin, key) for key in moved.old_keys}
        self.left.discard((to, moved.store_key))

    async def leavings(self) -> list[StaleObject]:
        named = {(place, row.store_key) for place, row in self.blobs.values()}
        return [StaleObject(*item, is_free=item not in named) for item in sorted(self.left)]

    async def settled(self, leaving: StaleObject) -> None:
        self.left.discard((leaving.place, leaving.store_key))


class Two:
    """A store with packs and clips, and an empty archive."""

    @classmethod
    def below(cls, path: Path) -> Self:
        """Make both in a directory."""
        return cls({place: Blobs.open(f"file://{path}/{place}") for place in Location})

    def __init__(self, places: Mapping[Location, Blobs]) -> None:
        self.rows = Rows()
        self.places = places
        self.bodies: dict[bytes, bytes] = {}

    async def pack(self, bodies: Sequence[bytes]) -> None:
        tar, places = pack.build([(sha256_hex(body), body) for body in bodies])
        key = pack_key(sha256_hex(tar))
        await self.places[Location.STORE].put(key, tar)
        for body, (offset, length) in zip(bodies, places, strict=True):
            self._row(body, BlobLocation(sha256(body).digest(), length, "application/json", key, offset))

    async def alone(self, body: bytes, media_type: str = "video/mp4") -> None:
        key = blob_key(sha256_hex(body))
        await self.places[Location.STORE].put(key, body)
        self._row(body, BlobLocation(sha256(body).digest(), len(body), media_type, key, None))

    def mover(
        self, to: Location, report: ArchiveReport | None = None, storage_class: StorageClassStore | None = None
    ) -> BodyMover:
        route = Route(self.places, to, storage_class)
        return BodyMover(self.rows, route, throttle=Throttle(1 << 40), report=report or ArchiveReport())  # type: ignore[arg-type]

    def there(self, place: Location) -> list[BlobLocation]:
        return in_reading_order(row for where, row in self.rows.blobs.values() if where is place)

    async def read_all(self) -> None:
        """Each body is whole where its row says."""
        for digest, (place, row) in self.rows.blobs.items():
            data = await self.places[place].get(row.store_key, offset=row.store_offset or 0, length=row.size_bytes)
            assert data == self.bodies[digest]

    async def objects(self, place: Location) -> set[str]:
        return {stat.key async for stat in self.places[place].list("")}

    async def is_tidy(self) -> bool:
        """Each object is named by a row, and nothing is left to do."""
        named = {place: {row.store_key for row in self.there(place)} for place in Location}
        return not self.rows.left and all([named[place] == await self.objects(place) for place in Location])

    def _row(self, body: bytes, row: BlobLocation) -> None:
        self.bodies[row.digest] = body
        self.rows.blobs[row.digest] = (Location.STORE, row)
