"""The audit trail, written behind the requests.

A caller that is refused a thousand times a second must not wait for it, nor make PostgreSQL wait.
"""

import asyncio
import time

from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import gateway_audit_dropped_total
from headrace.store.requests.access import Access, AuditRow

ROWS_WAITING_MAX = 2000
ROWS_AT_ONCE_MAX = 500
_EVERY_S = 0.5
_ADDRESS_CHARACTERS_MAX = 64
_ACTION_CHARACTERS_MAX = 200


class AuditLog:
    """Takes rows at once and writes them soon; beyond ROWS_WAITING_MAX they are counted and dropped."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._waiting: list[AuditRow] = []

    def add(self, action: str, code: str, *, actor: str | None, address: str | None, request_id: str | None) -> None:
        """Note that something was refused."""
        if len(self._waiting) >= ROWS_WAITING_MAX:
            gateway_audit_dropped_total.inc()
            return
        where = None if address is None else address[:_ADDRESS_CHARACTERS_MAX]
        self._waiting.append(AuditRow(time.time(), actor, where, action[:_ACTION_CHARACTERS_MAX], code, request_id))

    async def run(self) -> None:
        """Write until cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(_EVERY_S)
                await self._write()
        finally:
            await self._write()

    async def _write(self) -> None:
        while rows := self._waiting[:ROWS_AT_ONCE_MAX]:
            try:
                await self._access.audit(rows)
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service="postgres", why=error.what)
                return
            del self._waiting[: len(rows)]
