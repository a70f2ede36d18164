"""Applies labelling functions to the records that their version has not labelled yet, page by page.

The functions run in the caller's thread, one at a time, so they need not be thread-safe and Ctrl-C interrupts them; the
service is called from a background event loop. A later run skips what an earlier one has written.
"""

import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, closing
from dataclasses import dataclass, replace

from headrace.batch.background import BackgroundLoop
from headrace.batch.labels.functions import LabelModule, apply_functions
from headrace.batch.labels.statistics import LabelTally, majority
from headrace.batch.labels.view import record_view
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
class LabelRequest:
    """The functions, the records to label, and the name of the version; None names it after the module's digest.

    `selection.until_us` is ignored: a run covers the records that the catalog holds when it starts.
    """

    module: LabelModule
    selection: ExportSelection
    version: str | None = None


@dataclass(frozen=True, slots=True)
class LabelResult:
    """The counts of a version over all its records, and how many of them this run has added."""

    version: str
    tally: LabelTally
    added: int


def label(
    settings: Settings, request: LabelRequest, *, progress: Callable[[int], None], explain: Callable[[str], None]
) -> LabelResult:
    """Label every selected record that the version has not labelled yet; may be repeated.

    `progress` receives the number of records labelled so far, `explain` the first error of each function.

    Raises:
        HeadraceError: the version belongs to another module, or the catalog or the store is unreachable.
    """
    module = request.module
    version = module.version if request.version is None else _checked(request.version)
    dsn = settings.postgres_dsn.get_secret_value()
    with closing(BackgroundLoop()) as background:
        stack = AsyncExitStack()
        try:
            labels = background.run(stack.enter_async_context(Labels.open(dsn)))
            exports = background.run(stack.enter_async_context(Exports.open(dsn)))
            known = background.run(labels.begin(LabelVersion(version, module.sha256, tuple(module.functions))))
            if known.module_sha256 != module.sha256:
                raise _version_taken(version)
            labeller = Labeller(module, BodyReader(background, Blobs.from_settings(settings)), explain)
            added = 0
            selection = replace(request.selection, until_us=background.run(exports.settled_until_us()))
            pages = background.run(stack.enter_async_context(aclosing(exports.unlabelled(selection, version))))
            while (page := background.run(_next_page(pages))) is not None:
                rows = [labeller.label(record) for record in page]
                background.run(labels.add(version, rows))
                added += len(rows)
                progress(added)
            return LabelResult(version, background.run(_tally(labels, known)), added)
        finally:
            background.run(stack.aclose())


class BodyReader:
    """Reads the bytes of records for functions that block on them."""

    def __init__(self, background: BackgroundLoop, blobs: Blobs) -> None:
        """`store_error` is set when the store is unreachable or refuses, which is not the function's error."""
        self.store_error: HeadraceError | None = None
        self._background = background
        self._blobs = blobs

    def read(self, record: StoredRecord) -> bytes:
        """Return a record's bytes.

        Raises:
            BlobMissingError, BlobCorruptError, BlobArchivedError: the bytes are missing, differ from their digest, or
                are in the archive.
            HeadraceError: the store is unreachable or refuses.
        """
        try:
            return self._background.run(read_placed(self._blobs, record))
        except HeadraceError as error:
            if isinstance(error, StoreRefusedError) or error.exit_code == Exit.UNREACHABLE:
                self.store_error = error
            raise


class Labeller:
    """Labels records by the majority of a module's functions."""

    def __init__(self, module: LabelModule, bodies: BodyReader, explain: Callable[[str], None]) -> None:
        """`explain` receives the first error of each function."""
        self._functions = module.functions
        self._bodies = bodies
        self._explain = explain
        self._explained: set[str] = set()
        self._pid = os.getpid()

    def label(self, record: StoredRecord) -> Labelled:
        """Return the votes on a record and its label.

        Raises:
            HeadraceError: the store is unreachable or refuses, so the functions could not read the record.
        """
        results = apply_functions(self._functions, record_view(record, self._bodies.read))
        if os.getpid() != self._pid:
            os._exit(0)  # a function forked, and the background loop's thread does not exist in its child
        if self._bodies.store_error is not None:
            raise self._bodies.store_error  # a function may have caught it and voted without the body
        for name, message in results.messages.items():
            if name not in self._explained:
                self._explained.add(name)
                self._explain(f"{name} failed first on {record.record_id}: {message}")
        return Labelled(record.record_id, majority(results.votes.values()), results.votes, results.errors)


async def _next_page(pages: AsyncGenerator[list[StoredRecord]]) -> list[StoredRecord] | None:
    return await anext(pages, None)


async def _tally(labels: Labels, version: LabelVersion) -> LabelTally:
    tally = LabelTally(version.functions)
    async for labelled in labels.of(version.version):
        tally.add(labelled)
    return tally


def _checked(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise HeadraceError(
            "option_invalid",
            f"{version!r} is not a valid version name",
            hint="use up to 64 letters, digits, dots, underscores and hyphens",
            exit_code=Exit.USAGE,
        )
    return version


def _version_taken(version: str) -> HeadraceError:
    return HeadraceError(
        "version_taken",
        f"version {version!r} belongs to another module, or to this module before it was changed",
        hint="choose another name, or none: then the digest of the source names the version",
        exit_code=Exit.USAGE,
    )
