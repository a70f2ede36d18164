"""A run of labelling functions: pages of records that they have not seen, asked about and written, page by page.

The functions run in the caller's thread, one at a time, and the service is spoken to beside it: so they need to be safe
for no thread, and whoever interrupts the command interrupts them. What a run has written the next one passes over.
"""

import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, closing
from dataclasses import dataclass, replace

from headrace.batch.background import Background
from headrace.batch.labels.functions import ask
from headrace.batch.labels.module import Module
from headrace.batch.labels.statistics import LabelTally
from headrace.batch.labels.view import view_of
from headrace.batch.labels.vote import majority
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import Labelled
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_placed
from headrace.store.catalog.exports import Exports, ExportSelection
from headrace.store.catalog.labels import Labels, LabelVersion
from headrace.store.catalog.views import StoredRecord
from headrace.store.errors import StoreRefusedError

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class LabelResult:
    """What a version has said of all records so far, and how many of them it was shown in this run."""

    version: str
    tally: LabelTally
    added: int


def label(
    settings: Settings,
    module: Module,
    wanted: ExportSelection,
    *,
    version: str | None,
    progress: Callable[[int], None],
    explain: Callable[[str], None],
) -> LabelResult:
    """Ask a module's functions about every wanted record that this version has not labelled yet; may be repeated.

    It looks at what is in the catalog when it begins; `wanted.until_us` is not regarded. `progress` is told how many
    records were labelled so far, `explain` the first error of each function.

    Raises:
        HeadraceError: the version belongs to another module, or the catalog or the store is away.
    """
    name = module.version if version is None else _checked(version)
    dsn = settings.postgres_dsn.get_secret_value()
    with closing(Background()) as background:
        opened = AsyncExitStack()
        try:
            labels = background.run(opened.enter_async_context(Labels.open(dsn)))
            exports = background.run(opened.enter_async_context(Exports.open(dsn)))
            known = background.run(labels.begin(LabelVersion(name, module.sha256, tuple(module.functions))))
            if known.module_sha256 != module.sha256:
                raise _taken(name)
            voters = Voters(module, LabelBodies(background, Blobs.from_settings(settings)), explain)
            added = 0
            settled = replace(wanted, until_us=background.run(exports.settled_until_us()))
            pages = background.run(opened.enter_async_context(aclosing(exports.unlabelled(settled, name))))
            while (page := background.run(_following(pages))) is not None:
                rows = [voters.label(record) for record in page]
                background.run(labels.add(name, rows))
                added += len(rows)
                progress(added)
            return LabelResult(name, background.run(_tally(labels, known)), added)
        finally:
            background.run(opened.aclose())


class LabelBodies:
    """The bytes of records, read while a function waits for them."""

    def __init__(self, background: Background, blobs: Blobs) -> None:
        """Use an opened store; `fault` is what keeps it from answering, which is no fault of any function."""
        self.fault: HeadraceError | None = None
        self._background = background
        self._blobs = blobs

    def read(self, record: StoredRecord) -> bytes:
        """Return a record's bytes.

        Raises:
            BlobMissing, BlobCorrupt, BlobArchived: they are not there, others are, or they are in the archive.
            HeadraceError: the store is away or refuses.
        """
        try:
            return self._background.run(read_placed(self._blobs, record))
        except HeadraceError as error:
            if isinstance(error, StoreRefusedError) or error.exit_code == Exit.UNREACHABLE:
                self.fault = error
            raise


class Voters:
    """The functions of a module, and what they say of a record."""

    def __init__(self, module: Module, bodies: LabelBodies, explain: Callable[[str], None]) -> None:
        """Say the first error of each function to `explain`."""
        self._functions = module.functions
        self._bodies = bodies
        self._explain = explain
        self._explained: set[str] = set()
        self._pid = os.getpid()

    def label(self, record: StoredRecord) -> Labelled:
        """Return what they say of a record.

        Raises:
            HeadraceError: the store is away or refuses, so they could not be asked.
        """
        answers = ask(self._functions, view_of(record, self._bodies.read))
        if os.getpid() != self._pid:
            os._exit(0)  # a function forked; there is nothing here that its child could talk to the service with
        if self._bodies.fault is not None:
            raise self._bodies.fault  # the function may have caught it, and voted without the body
        for name, message in answers.messages.items():
            if name not in self._explained:
                self._explained.add(name)
                self._explain(f"{name} failed first on {record.record_id}: {message}")
        return Labelled(record.record_id, majority(answers.votes.values()), answers.votes, answers.errors)


async def _following(pages: AsyncGenerator[list[StoredRecord]]) -> list[StoredRecord] | None:
    return await anext(pages, None)


async def _tally(labels: Labels, known: LabelVersion) -> LabelTally:
    tally = LabelTally(known.functions)
    async for one in labels.of(known.version):
        tally.add(one)
    return tally


def _checked(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise HeadraceError(
            "option_invalid",
            f"{version!r} is no name of a version",
            hint="give up to 64 letters, digits, dots, underscores and hyphens",
            exit_code=Exit.USAGE,
        )
    return version


def _taken(version: str) -> HeadraceError:
    return HeadraceError(
        "version_taken",
        f"the version {version!r} is that of another module, or of this one before it was changed",
        hint="give another name, or none: then the source's digest is the version",
        exit_code=Exit.USAGE,
    )
