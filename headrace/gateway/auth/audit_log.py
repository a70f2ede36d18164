"""The audit log of requests, and what counts as one address in it."""

import asyncio
import time
from collections import Counter
from ipaddress import IPv4Address, ip_network
from typing import TypeAlias

from headrace.runtime.addresses import client_address
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import gateway_audit_dropped_total
from headrace.store.requests.access import Access, AuditRow

AUDIT_ROWS_WAITING_MAX = 2000
AUDIT_ROWS_PER_INSERT_MAX = 500
_AUDIT_EVERY_S = 0.5
_ADDRESS_CHARACTERS_MAX = 64
_ACTION_CHARACTERS_MAX = 200

_AuditKind: TypeAlias = tuple[str | None, str, str, str | None]  # actor, address, action, code


class AuditLog:
    """The audit log, written in the background: a refused request waits for no insert.

    The first request of a kind is written soon, with its id; those that are alike and follow within the minute become
    one row with their number. Kinds beyond AUDIT_ROWS_WAITING_MAX are counted and dropped, so that a flood of refusals
    cannot overload PostgreSQL.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._rows: list[AuditRow] = []
        self._repeated: Counter[_AuditKind] = Counter()
        self._minute = 0

    def add(self, action: str, code: str | None, *, actor: str | None, address: str, request_id: str | None) -> None:
        """Add a request; it is written soon, or with others."""
        now_s = time.time()
        self._begin_minute(int(now_s // 60))
        kind = (actor, address_group(address)[:_ADDRESS_CHARACTERS_MAX], action[:_ACTION_CHARACTERS_MAX], code)
        if kind in self._repeated:
            self._repeated[kind] += 1
        elif len(self._repeated) >= AUDIT_ROWS_WAITING_MAX or len(self._rows) >= AUDIT_ROWS_WAITING_MAX:
            gateway_audit_dropped_total.inc()
        else:
            self._repeated[kind] = 0
            self._rows.append(AuditRow(now_s, *kind, request_id))

    def _begin_minute(self, minute: int) -> None:
        if minute <= self._minute:
            return
        self._rows += [
            AuditRow(self._minute * 60.0 + 59.0, *kind, None, count) for kind, count in self._repeated.items() if count
        ]
        self._repeated.clear()
        self._minute = minute

    async def run(self) -> None:
        """Write rows until cancelled, and then the remaining ones."""
        try:
            while True:
                await asyncio.sleep(_AUDIT_EVERY_S)
                await self.write()
        finally:
            self._begin_minute(self._minute + 1)
            await self.write()

    async def write(self) -> None:
        """Write the waiting rows, and the numbers of the minutes that are over."""
        self._begin_minute(int(time.time() // 60))
        while rows := self._rows[:AUDIT_ROWS_PER_INSERT_MAX]:
            try:
                await self._access.audit(rows)
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service="postgres", why=error.what)
                return
            del self._rows[: len(rows)]


def address_group(address: str) -> str:
    """Return what counts as one address: a host with IPv6 usually has a network of 64 bits."""
    parsed = client_address(address)
    if parsed is None:
        return address
    return str(parsed if isinstance(parsed, IPv4Address) else ip_network((parsed, 64), strict=False))
