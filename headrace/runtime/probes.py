import asyncio
from collections.abc import Awaitable, Callable, Mapping

from headrace.runtime.errors import HeadraceError

_EVERY_S = 2.0
_EVERY_S_WHILE_AWAY = 0.5  # who waits for a process to become ready should not wait for its next look as well
_ANSWER_S_MAX = 5.0


class Probes:
    """Asks each dependency every two seconds whether it answers, more often while one does not.

    So `/readyz` itself never waits.

    Each probe raises when its service does not answer.
    """

    def __init__(self, probes: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        self._probes = probes
        self._faults: dict[str, str | None] = dict.fromkeys(probes, "not asked yet")

    def readyz(self) -> Mapping[str, str | None]:
        """Return each dependency's name with None when it answers, or a sentence on why not."""
        return dict(self._faults)

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.gather(*(self._ask(name, probe) for name, probe in self._probes.items()))
            away = any(fault is not None for fault in self._faults.values())
            await asyncio.sleep(_EVERY_S_WHILE_AWAY if away else _EVERY_S)

    async def _ask(self, name: str, probe: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                await probe()
        except TimeoutError:
            self._faults[name] = f"no answer within {_ANSWER_S_MAX:.0f} s"
        except HeadraceError as error:
            self._faults[name] = error.what
        except Exception as error:  # noqa: BLE001 - whatever it is, the next question must still be asked
            self._faults[name] = f"{type(error).__name__} when it was asked"
        else:
            self._faults[name] = None
