"""The archive that the settings name."""

from headrace.batch.archive.plan import is_apart
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs


def archive_of(settings: Settings) -> Blobs:
    """Open the archive that the settings name.

    Raises:
        HeadraceError: they name none, or one where the store keeps its own objects.
    """
    if not settings.archive_url:
        raise HeadraceError(
            "archive_unknown",
            "there is no archive",
            hint="set HEADRACE_ARCHIVE_URL to a bucket or prefix, for example s3://headrace-archive",
            exit_code=Exit.USAGE,
        )
    if not is_apart(settings.archive_url, settings.store_url):
        raise HeadraceError(
            "setting_invalid",
            "HEADRACE_ARCHIVE_URL is where the store keeps its own objects",
            hint="give the archive a bucket or a prefix of its own, for example s3://headrace/archive",
            exit_code=Exit.USAGE,
        )
    return Blobs.from_settings(settings.model_copy(update={"store_url": settings.archive_url}))
