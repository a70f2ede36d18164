"""Where an export is written: a directory, or a prefix of a store. A file appears there whole, or not at all."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs, once
from headrace.store.blobs.staging import OWN_PREFIXES
from headrace.store.errors import BlobMissingError, address

_STORES = ("s3", "gs", "az")
_UNFINISHED = "_unfinished-"


class ExportTarget(Protocol):
    """Files by their name, in one place. Every method may be repeated."""

    @property
    def where(self) -> str:
        """Its address, without credentials."""

    async def names(self) -> list[str]:
        """Return the names of the files."""

    async def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""

    async def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one of that name; False means that there is."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Write or replace a file; when `chunks` raises, nothing has changed."""

    async def remove(self, name: str) -> None:
        """Remove a file; that there is none is success."""


@contextmanager
def opened_target(text: str, settings: Settings) -> Iterator[ExportTarget]:
    """Open the place that a path or an URL (s3://, gs://, az://, file://) names; the store's credentials are ours.

    Raises:
        HeadraceError: it cannot be opened, it is where the service keeps its own, or another export writes to the same
            directory.
    """
    for own in filter(None, (settings.store_url, settings.archive_url)):
        _refuse_the_stores_own(text, own)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "://" not in text:
        with _locked(Path(text)) as directory:
            yield Directory(directory)
        return
    parts = urlsplit(text)
    if parts.scheme not in _STORES or not parts.hostname:
        raise HeadraceError(
            "option_invalid",
            "an export cannot be written there",
            where=address(text),
            hint="give a directory, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
            exit_code=Exit.USAGE,
        )
    yield StorePrefix(Blobs.from_settings(settings.model_copy(update={"store_url": text})))


class Directory:
    """A directory of this machine; a file is named when it is on the disk."""

    def __init__(self, path: Path) -> None:
        """Use a directory that is there, and that nobody else exports to."""
        self._path = path
        self.where = str(path)

    async def names(self) -> list[str]:
        """Return the names of the files, without those of a run that was killed, which it removes."""
        with _unwritable(self.where):
            for left in self._path.glob(f"{_UNFINISHED}*"):
                left.unlink()
            return sorted(entry.name for entry in self._path.iterdir() if entry.is_file())

    async def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""
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
        """Write a file unless there is one of that name; nobody else writes here."""
        if (self._path / name).exists():
            return False
        await self.write(name, once(data))
        return True

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Write or replace a file."""
        unfinished = self._path / (_UNFINISHED + name)
        with _unwritable(self.where):
            try:
                with unfinished.open("wb") as file:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
                    await asyncio.to_thread(_to_disk, file)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            unfinished.replace(self._path / name)

    async def remove(self, name: str) -> None:
        """Remove a file; that there is none is success."""
        with _unwritable(self.where):
            (self._path / name).unlink(missing_ok=True)


class StorePrefix:
    """A prefix of a store."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.where = blobs.where

    async def names(self) -> list[str]:
        """Return the names of the files."""
        return sorted([found.key async for found in self._blobs.list("")])

    async def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""
        with suppress(BlobMissingError):
            return await self._blobs.get(name)
        return None

    async def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one of that name."""
        return await self._blobs.create(name, data)

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Write or replace a file."""
        await self._blobs.put_stream(name, chunks)

    async def remove(self, name: str) -> None:
        """Remove a file; that there is none is success."""
        await self._blobs.delete(name)


def _refuse_the_stores_own(text: str, store_url: str) -> None:
    """Refuse the blob store's root and what lies in its own prefixes: fsck would take shards there for orphans.

    Raises:
        HeadraceError.
    """
    wanted, own = _plain(text), _plain(store_url)
    if wanted == own or any(f"{wanted}/".startswith(f"{own}/{prefix}") for prefix in OWN_PREFIXES):
        raise HeadraceError(
            "option_invalid",
            "the blob store keeps its own objects there",
            where=address(text) if "://" in text else text,
            hint="choose another bucket, prefix or directory, for example exports/NAME in the same bucket",
            exit_code=Exit.USAGE,
        )


def _plain(text: str) -> str:
    """Return an address in the one way in which it can be compared."""
    if "://" in text and not text.startswith("file://"):
        return text.rstrip("/")
    path = unquote(urlsplit(text).path) if "://" in text else text
    return Path(path).resolve().as_uri()


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    with _unwritable(str(path)):
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeadraceError(
                "export_running", "another export writes there", where=str(path), hint="wait until it has ended"
            ) from None
        yield path
    finally:
        os.close(lock)


@contextmanager
def _unwritable(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        wrong_place = isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError | FileExistsError)
        raise HeadraceError(
            "file_unwritable",
            # Of a directory that is to be made, "File exists" is said where something else has its name.
            f"cannot write: {'Not a directory' if isinstance(error, FileExistsError) else error.strerror}",
            where=where,
            hint="make room or correct the path, and run it again: it goes on where it stopped",
            exit_code=Exit.USAGE if wrong_place else Exit.FAILED,
        ) from None


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
