"""Camera configurations: settings and calibration, with a version that counts the changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.store.catalog.pagination import within
from headrace.store.postgres import borrowed, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True)
class CameraRow:
    """One camera's configuration. `settings` and `calibration` are JSON objects; times are microseconds since 1970."""

    site: str
    camera_id: str
    settings: str
    calibration: str | None
    version: int
    created_at_us: int
    updated_at_us: int


class Cameras:
    """The table of cameras. Raises CatalogUnavailableError or CatalogRefusedError.

    `versions` are those that may be changed; None is any. `scopes` are the reader's, 'site/source' or 'site/*'; None is
    everything.
    """

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        sql = statements("cameras")
        self._sql = {name: text.replace("{columns}", sql["columns"]) for name, text in sql.items()}
        self._sql["page"] = self._sql["page"].replace("{within}", within("cameras", "$4", "camera_id"))

    async def add(self, site: str, camera_id: str, settings: str, calibration: str | None) -> CameraRow | None:
        """Insert a camera's configuration; return None if it exists."""
        return await self._row("add", site, camera_id, settings, calibration)

    async def get(self, site: str, camera_id: str) -> CameraRow | None:
        """Return a camera's configuration, or None."""
        return await self._row("camera", site, camera_id)

    async def page(
        self, after: tuple[str, str], limit: int, *, site: str | None, scopes: Sequence[str] | None
    ) -> list[CameraRow]:
        """Return at most `limit` configurations by site and id, after the given one."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["page"], *after, site, scopes, limit)
        return [CameraRow(*row) for row in rows]

    async def replace(
        self, site: str, camera_id: str, settings: str, calibration: str | None, *, versions: Sequence[int] | None
    ) -> CameraRow | None:
        """Replace a camera's configuration; return None if none has one of these versions."""
        return await self._row("replace", site, camera_id, settings, calibration, versions)

    async def delete(self, site: str, camera_id: str, *, versions: Sequence[int] | None) -> bool:
        """Delete a camera's configuration; return False if none has one of these versions."""
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchval(self._sql["delete"], site, camera_id, versions) is not None

    async def _row(self, statement: str, *values: object) -> CameraRow | None:
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql[statement], *values)
        return None if row is None else CameraRow(*row)
