"""Tells the centre's catalog what a mirror knows of its sources: what they deleted, and what they still have."""

import time
from collections.abc import Iterable
from importlib.util import find_spec

from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.sites.link_probe import LinkStatus
from headrace.sites.topology import Flow

EVERY_S = 30.0


class CatalogLosses:
    """Judges the gaps that workers have noticed; a centre whose catalog does not answer keeps them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due_s = time.monotonic() + EVERY_S
        self._complaint = ""

    async def settle(self, looks: Iterable[tuple[Flow, LinkStatus]], began_s: float) -> None:
        """Tell the catalog, from time to time, what looks that began at `began_s` of the monotonic clock have seen."""
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + EVERY_S
        try:
            await self._settle(looks, began_s)
            self._complaint = ""
        except HeadraceError as error:
            if error.code != self._complaint:
                get_log().warning(Action.WAITING, service="postgres", why=error.what, where=error.where)
            self._complaint = error.code

    async def _settle(self, looks: Iterable[tuple[Flow, LinkStatus]], began_s: float) -> None:
        if find_spec("asyncpg") is None:
            return  # without the extra `service`, this machine is none of a centre's own
        from headrace.store.catalog.mirror_losses import MirrorLosses, MirrorLossReason, SitePartition

        dsn, statement_s_max = self._settings.postgres_dsn.get_secret_value(), self._settings.postgres_statement_s_max
        async with MirrorLosses.open(dsn, statement_s_max=statement_s_max) as losses:
            for flow, status in looks:
                for loss in status.losses:
                    place = SitePartition(flow.source, loss.topic, loss.partition)
                    await losses.record_mirror_loss(place, loss.first, loss.until - 1, MirrorLossReason.RETENTION)
                for lag in status.lags:
                    place = SitePartition(flow.source, lag.topic, lag.partition)
                    await losses.note_source_start(place, lag.first, age_s=time.monotonic() - began_s)
