"""The bucket of an S3 store: create it, and set the lifecycle rules that delete leftovers."""

from math import ceil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, SSLError

from headrace.runtime.logs import Action, get_log
from headrace.store.blobs.blob_errors import certificate_refused
from headrace.store.blobs.staging import PROMOTING_DAYS_MAX, PROMOTING_PREFIX, STAGING_PREFIX
from headrace.store.blobs.store_url import StoreAccess
from headrace.store.errors import StoreRefusedError, StoreUnavailableError, address

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONNECT_S = 5
_ANSWER_S = 10
_EXISTS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
_UPLOAD_DAYS_MAX = 1  # parts of an upload that nobody completed are paid for and seen by no list
# In a bucket with versioning, what is deleted stays as an old version, and is paid for, until a rule ends it.
_OLD_VERSIONS = {"NoncurrentVersionExpiration": {"NoncurrentDays": 30}}
_RULE_PREFIX = "headrace-"


async def ensure_bucket(url: str, access: StoreAccess, *, staging_days: float) -> bool:
    """Create the bucket of s3://bucket at an endpoint if it does not exist, and set its lifecycle; may be repeated.

    Staged bodies are kept for `staging_days`, rounded up to whole days, the least that a store can count.

    Returns whether it was created. Other rules of the bucket stay. A store without lifecycle rules is used all the
    same: leftovers below staging/ and promoting/ then stay until an operator deletes them.

    Raises:
        StoreUnavailableError: the store does not answer. StoreRefusedError: it does not allow to create the bucket, or
            its certificate is not trusted.
    """
    parts, endpoint = urlsplit(url), access.endpoint
    config = AioConfig(connect_timeout=_CONNECT_S, read_timeout=_ANSWER_S, retries={"max_attempts": 1})
    client = get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=access.region or "us-east-1",
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        verify=access.ca_file or None,
        config=config,
    )
    try:
        async with client as s3:
            created = await _create(s3, parts.netloc, endpoint)
            await _set_lifecycle(s3, parts.netloc, lifecycle_rules(parts.path.strip("/"), staging_days))
    except SSLError:
        raise certificate_refused(address(endpoint)) from None
    except BotoCoreError as error:
        raise StoreUnavailableError(
            f"the store does not answer: {type(error).__name__}", where=address(endpoint)
        ) from None
    return created


def lifecycle_rules(prefix: str, staging_days: float) -> list[dict[str, Any]]:
    """Return the lifecycle rules for a bucket in which the service uses the keys below `prefix`."""
    below = f"{prefix}/" if prefix else ""
    rules: list[dict[str, Any]] = [
        {
            "ID": f"{_RULE_PREFIX}{below}{folder}".rstrip("/"),
            "Status": "Enabled",
            "Filter": {"Prefix": f"{below}{folder}"},
            "Expiration": {"Days": days},
            **_OLD_VERSIONS,
        }
        for folder, days in ((STAGING_PREFIX, max(1, ceil(staging_days))), (PROMOTING_PREFIX, PROMOTING_DAYS_MAX))
    ]
    rules += [
        {"ID": f"{_RULE_PREFIX}{below}versions", "Status": "Enabled", "Filter": {"Prefix": below}, **_OLD_VERSIONS},
        {
            "ID": f"{_RULE_PREFIX}{below}uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": below},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _UPLOAD_DAYS_MAX},
        },
    ]
    return rules


async def _create(s3: Any, bucket: str, endpoint: str) -> bool:
    try:
        await s3.create_bucket(Bucket=bucket)
    except ClientError as error:
        code = _code(error)
        if code in _EXISTS:
            return False
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise StoreUnavailableError(f"the store answered {code}", where=address(endpoint)) from None
        raise StoreRefusedError(
            f"the store refused to create the bucket {bucket}: {code}",
            where=address(endpoint),
            hint="check HEADRACE_STORE_ACCESS_KEY and HEADRACE_STORE_SECRET_KEY, or create the bucket yourself",
        ) from None
    return True


async def _set_lifecycle(s3: Any, bucket: str, ours: list[dict[str, Any]]) -> None:
    try:
        others = await _rules_of_others(s3, bucket, {rule["ID"] for rule in ours})
        try:
            await _put_rules(s3, bucket, [*others, *ours])
        except ClientError:
            # MinIO aborts incomplete uploads by itself, and has no rule for it.
            known = [rule for rule in ours if "AbortIncompleteMultipartUpload" not in rule]
            await _put_rules(s3, bucket, [*others, *known])
    except ClientError as error:
        get_log().warning(Action.REFUSED, service="store", what=f"lifecycle rules of {bucket}", why=_code(error))


async def _rules_of_others(s3: Any, bucket: str, ours: set[str]) -> "list[Mapping[str, Any]]":
    try:
        answer = await s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    except ClientError as error:
        if _code(error) == "NoSuchLifecycleConfiguration":
            return []
        raise
    return [rule for rule in answer.get("Rules", []) if rule.get("ID") not in ours]


async def _put_rules(s3: Any, bucket: str, rules: "list[Mapping[str, Any]]") -> None:
    await s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an error"))
