"""The file of the sites whose bodies are transferred: where each site's store is, and how much of its link may be used.

It is TOML with a table for each site:

    [factory-a]
    store_url = "s3://headrace"
    store_endpoint = "https://minio.factory-a.example:9000"
    store_access_key = "centre"
    store_secret_key_file = "/run/secrets/factory-a"
    limits = [{ hours = "06-22", kbit_per_s = 1000 }]
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from headrace.runtime.connection_settings import ReadableFile, checked_store_url
from headrace.runtime.errors import Exit, HeadraceError
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.store_url import StoreAccess, open_target
from headrace.streams.transfer.limits import HOURS, HoursLimit

_HOURS = re.compile(r"(\d{2})-(\d{2})")
_BYTES_PER_KBIT = 125


def _checked_hours(text: str) -> str:
    hours = _HOURS.fullmatch(text)
    if hours is None or not all(int(hour) < HOURS for hour in hours.groups()):
        raise ValueError("should be two hours from 00 to 23, such as 06-22")
    return text


class LimitTable(BaseModel):
    """A limit in some hours of the day (UTC)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hours: Annotated[str, AfterValidator(_checked_hours)] = "00-00"
    kbit_per_s: float = Field(ge=0, description="0: nothing but what is asked for by hand.")

    def limit(self) -> HoursLimit:
        """Return it in bytes per second."""
        first, end = map(int, self.hours.split("-"))
        return HoursLimit(first, end, self.kbit_per_s * _BYTES_PER_KBIT)


class SiteTable(BaseModel):
    """A site's store, and the limits of its link, of which the first that covers an hour holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store_url: Annotated[str, AfterValidator(checked_store_url)]
    store_endpoint: str = ""
    store_region: str = "us-east-1"
    store_access_key: str = ""
    store_secret_key_file: ReadableFile = ""
    store_ca_file: ReadableFile = ""
    limits: tuple[LimitTable, ...] = ()

    def opened(self) -> Blobs:
        """Open the site's store, without a request."""
        secret = Path(self.store_secret_key_file).read_text("utf-8").strip() if self.store_secret_key_file else ""
        access = StoreAccess(
            endpoint=self.store_endpoint,
            region=self.store_region,
            access_key=self.store_access_key,
            secret_key=secret,
            ca_file=self.store_ca_file,
        )
        return Blobs(open_target(self.store_url, access))

    def hours_limits(self) -> list[HoursLimit]:
        """Return the limits in their order."""
        return [table.limit() for table in self.limits]


_SITES = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], SiteTable])


def read_sites(path: str) -> dict[str, SiteTable]:
    """Return the sites of the file.

    Raises:
        HeadraceError: there is no file, or it is not as it should be; the message names the place, and no value.
    """
    if not path:
        raise _wrong("HEADRACE_TRANSFER_SITES names no file", "set it to a TOML file with a table for each site")
    try:
        tables = tomllib.loads(Path(path).read_text("utf-8"))
        return _SITES.validate_python(tables)
    except OSError as error:
        raise _wrong(f"the file {path} cannot be read: {error.strerror}", "correct HEADRACE_TRANSFER_SITES") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(f"the file {path} is not TOML: {error}", "docs/central.md has an example") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise _wrong(
            f"{place} in {path}: {message[0].lower()}{message[1:]}", "docs/central.md has an example"
        ) from None


def _wrong(what: str, hint: str) -> HeadraceError:
    return HeadraceError("transfer_sites_invalid", what, hint=hint, exit_code=Exit.USAGE)
