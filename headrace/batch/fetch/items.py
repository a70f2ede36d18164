"""The URLs to ingest: items given to `IngestClient.ingest_urls`, and lists of them in a file."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import orjson

from headrace.batch.fetch.asset import AssetOrigin
from headrace.batch.fetch.errors import ArgumentRefusedError
from headrace.batch.fetch.outcome import FetchOutcome, FetchStatus

LINE_BYTES_MAX = 64 * 1024

UrlInput: TypeAlias = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlItem:
    """A URL to ingest; `index` counts from 0."""

    index: int
    url: str
    origin: AssetOrigin


def number_items(inputs: Iterable[UrlInput], origin: AssetOrigin) -> Iterator[UrlItem | FetchOutcome]:
    """Yield numbered items, and a failed outcome for each input without a URL; `origin` has the defaults."""
    for index, value in enumerate(inputs):
        fields: Mapping[str, Any] = {"url": value} if isinstance(value, str) else value
        url = fields.get("url")
        license_, source = fields.get("license", origin.license), fields.get("source", origin.source)
        if isinstance(url, str) and isinstance(license_, str | None) and isinstance(source, str):
            item_origin = AssetOrigin(source=source, license=license_, site=origin.site)
            yield UrlItem(index=index, url=url, origin=item_origin)
        else:
            error = ArgumentRefusedError("url, license and source must be strings")
            yield FetchOutcome(index=index, url="", status=FetchStatus.FAILED, error=error)


def read_items(stream: BinaryIO) -> Iterator[str | dict[str, Any]]:
    """Yield an item for each line: a URL, or a JSON object with `url`, `license` and `source`.

    Blank lines and lines that begin with '#' are skipped. Malformed JSON yields an empty object, and a line longer than
    LINE_BYTES_MAX only its beginning, so both count as failed.
    """
    prefix = BOM_UTF8  # which some editors write at the start of a file
    while line := stream.readline(LINE_BYTES_MAX + 1):
        text = line.removeprefix(prefix)
        prefix = b""
        if len(line) > LINE_BYTES_MAX:
            _skip_line(stream, line)
        else:
            text = text.strip()
        if text.startswith(b"{"):
            yield _parse_object(text)
        elif text and not text.startswith(b"#"):
            yield text.decode(errors="replace")


def _skip_line(stream: BinaryIO, part: bytes) -> None:
    while part and not part.endswith(b"\n"):
        part = stream.readline(LINE_BYTES_MAX)


def _parse_object(text: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = orjson.loads(text)
    except ValueError:
        return {}
    return fields
