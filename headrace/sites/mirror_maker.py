"""MirrorMaker's process: its configuration in a private file, its logins in its environment, its output in a log."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from headrace.native.kafka import class_archive, server_argv
from headrace.native.kafka_jars import class_path
from headrace.native.layout import write_private
from headrace.native.managed_process import explain_exit, start_process
from headrace.native.process import ProcessSpec
from headrace.native.supervisor import rotate_log
from headrace.sites.mm2 import text_of

_MAIN = "org.apache.kafka.connect.mirror.MirrorMaker"
_HEAP = "512m"
_STOP_S_MAX = 12.0
_LOG_LINES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a MirrorMaker is started with; `environment` holds the logins."""

    target: str
    settings: Mapping[str, str]
    environment: Mapping[str, str] = field(repr=False)


class MirrorMaker:
    """One process of MirrorMaker in a directory of its own; it ends with this process."""

    def __init__(self, home: Path, java: Path, classes: Path) -> None:
        """Use this directory; `classes` holds the transformation."""
        self.log = home / "mirror-maker.log"
        self.configuration: Configuration | None = None
        self._home = home
        self._java = java
        self._classes = classes
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def end(self) -> str:
        """How it ended by itself; empty while it runs, or where it was never started."""
        if self._process is None or self._process.returncode is None:
            return ""
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            errors = [line for line in lines if " ERROR " in line][-_LOG_LINES_SHOWN:] or lines[-_LOG_LINES_SHOWN:]
            return f"{explain_exit(self._process.returncode)}; its log ends: {' | '.join(errors)[:600]}"
        return explain_exit(self._process.returncode)

    async def start(self, configuration: Configuration) -> None:
        """Start it, after an earlier one has stopped.

        Raises OSError when it cannot be started.
        """
        await self.stop()
        file = self._home / "mm2.properties"
        write_private(file, text_of(configuration.settings).encode("ascii"))
        begin = server_argv(self._java, _HEAP, class_archive(self._java, write=False))
        spec = ProcessSpec(
            name="mirror-maker",
            argv=(*begin, _MAIN, str(file), "--clusters", configuration.target),
            env={"CLASSPATH": f"{class_path()}:{self._classes}"},
            cwd=self._home,
            log=self.log,
        )
        self._process = await start_process(spec, configuration.environment)
        self.configuration = configuration

    async def stop(self) -> None:
        """Stop it; kill it if it has not ended after 12 s."""
        self.configuration = None
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()

    def rotate_log(self) -> None:
        """Keep its log within bounds."""
        with suppress(OSError):  # a disk that is full now may have room the next time
            rotate_log(self.log)
