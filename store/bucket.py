from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from store.errors import StoreRefused, StoreUnavailable, address

_CONNECT_S = 5
_ANSWER_S = 10
_THERE = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


async def ensure_bucket(url: str, *, endpoint: str, region: str, keys: tuple[str, str]) -> bool:
    """Create the bucket of s3://bucket at an endpoint if it is not there; returns whether it was created.

    Raises:
        StoreUnavailable: the store does not answer. StoreRefused: it does not let us create the bucket.
    """
    bucket = urlsplit(url).netloc
    config = AioConfig(connect_timeout=_CONNECT_S, read_timeout=_ANSWER_S, retries={"max_attempts": 1})
    client = get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=region or "us-east-1",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        config=config,
    )
    try:
        async with client as s3:
            await s3.create_bucket(Bucket=bucket)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _THERE:
            return False
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise StoreUnavailable(f"the store answered {code}", where=address(endpoint)) from None
        raise StoreRefused(
            f"the store would not create the bucket {bucket}: {code}",
            where=address(endpoint),
            hint="check HEADRACE_STORE_ACCESS_KEY and HEADRACE_STORE_SECRET_KEY, or create the bucket yourself",
        ) from None
    except BotoCoreError as error:
        raise StoreUnavailable(f"the store does not answer: {type(error).__name__}", where=address(endpoint)) from None
    return True
