"""The target of an export: a directory, or a prefix of a store. Files are written atomically."""

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs, once
from headrace.store.blobs.staging import OWN_PREFIXES
from headrace.store.catalog.exports import ExportPlace
from headrace.store.errors import BlobMissingError, address

_STORES = ("s3", "gs", "az")
_UNFINISHED = "_unfinished-"


class ExportTarget(Protocol):
    """Named files in one place. Every method may be repeated."""

    @property
    def where(self) -> str:
        """The address, without credentials."""

    @property
    def place(self) -> ExportPlace:
        """The address in the catalog."""

    async def names(self) -> list[str]:
        """Return the names of the files."""

    async def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if it does not exist."""

    async def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; return whether it was written."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Write or replace a file; if `chunks` raises, nothing changes."""

    async def remove(self, name: str) -> None:
        """Remove a file if it exists."""


@contextmanager
def open_target(text: str, settings: Settings) -> Iterator[ExportTarget]:
    """Open a path or a URL (s3://, gs://, az://, file://), with the blob store's credentials.

    Raises:
        HeadraceError: it cannot be opened, it overlaps with the service's own objects, or another export writes to the
            same directory.
    """
    for store_url in filter(None, (settings.store_url, settings.archive_url)):
        _refuse_overlap(text, store_url)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "://" not in text:
        with _locked_directory(Path(text)) as directory:
            yield DirectoryTarget(directory)
        return
    parts = urlsplit(text)
    if parts.scheme not in _STORES or not parts.hostname:
        raise HeadraceError(
            "option_invalid",
            "not a valid target for an export",
            where=address(text),
            hint="use a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
            exit_code=Exit.USAGE,
        )
    yield StoreTarget(Blobs.from_settings(settings.model_copy(update={"store_url": text})))


class DirectoryTarget:
    """A local directory; a file gets its name after it was fsynced."""

    def __init__(self, path: Path) -> None:
        """Use an existing directory that no other export writes to."""
        self._path = path
        self.where = str(path)
        self.place = ExportPlace(socket.gethostname(), str(path.resolve()))

    async def names(self) -> list[str]:
        """Return the names of the files, and remove unfinished ones of a killed run."""
        with _translate_os_errors(self.where):
            for unfinished in self._path.glob(f"{_UNFINISHED}*"):
                unfinished.unlink()
            return sorted(entry.name for entry in self._path.iterdir() if entry.is_file())

    async def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if it does not exist."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HeadraceError(
                "file_unreadable",
                f"cannot read {name}: {error.strerror}",
                where=self.where,
                hint="make it readable, or choose another directory",
                exit_code=Exit.USAGE,
            ) from None

    async def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; the directory is locked."""
        if (self._path / name).exists():
            return False
        await self.write(name, once(data))
        return True

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Write or replace a file."""
        unfinished = self._path / (_UNFINISHED + name)
        with _translate_os_errors(self.where):
            try:
                with unfinished.open("wb") as file:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
                    await asyncio.to_thread(_fsync, file)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            unfinished.replace(self._path / name)

    async def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with _translate_os_errors(self.where):
            (self._path / name).unlink(missing_ok=True)


class StoreTarget:
    """A prefix of a store."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.where = blobs.where
        self.place = ExportPlace("", blobs.where)

    async def names(self) -> list[str]:
        """Return the names of the files."""
        return sorted([stat.key async for stat in self._blobs.list("")])

    async def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if it does not exist."""
        with suppress(BlobMissingError):
            return await self._blobs.get(name)
        return None

    async def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; return whether it was written."""
        return await self._blobs.create(name, data)

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Write or replace a file."""
        await self._blobs.put_stream(name, chunks)

    async def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        await self._blobs.delete(name)


def _refuse_overlap(text: str, store_url: str) -> None:
    """Refuse the blob store's root and its own prefixes, where fsck would report shards as orphans.

    Raises:
        HeadraceError: the target overlaps.
    """
    target, store = _normalised(text), _normalised(store_url)
    if target == store or any(f"{target}/".startswith(f"{store}/{prefix}") for prefix in OWN_PREFIXES):
        raise HeadraceError(
            "option_invalid",
            "the target overlaps with the blob store's own objects",
            where=address(text) if "://" in text else text,
            hint="choose another bucket, prefix or directory, for example exports/NAME in the same bucket",
            exit_code=Exit.USAGE,
        )


def _normalised(text: str) -> str:
    """Return an address in a form that can be compared."""
    if "://" in text and not text.startswith("file://"):
        return text.rstrip("/")
    path = unquote(urlsplit(text).path) if "://" in text else text
    return Path(path).resolve().as_uri()


@contextmanager
def _locked_directory(path: Path) -> Iterator[Path]:
    with _translate_os_errors(str(path)):
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeadraceError(
                "export_running", "another export writes to it", where=str(path), hint="wait until it has finished"
            ) from None
        yield path
    finally:
        os.close(lock)


@contextmanager
def _translate_os_errors(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_wrong_path = isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError | FileExistsError)
        raise HeadraceError(
            "file_unwritable",
            # mkdir reports "File exists" if the path is not a directory.
            f"cannot write: {'Not a directory' if isinstance(error, FileExistsError) else error.strerror}",
            where=where,
            hint="free some disk space or correct the path, and run it again; it resumes",
            exit_code=Exit.USAGE if is_wrong_path else Exit.FAILED,
        ) from None


def _fsync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
