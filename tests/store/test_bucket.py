from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiobotocore.session import get_session

from headrace.store.blobs.bucket import ensure_bucket
from headrace.store.blobs.store_url import StoreAccess
from tests.store.conftest import Minio

OTHER = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "exports/"}, "Expiration": {"Days": 3}}


@pytest.fixture
async def s3(minio: Minio) -> AsyncIterator[Any]:
    async with get_session().create_client(
        "s3",
        endpoint_url=minio.endpoint,
        region_name="us-east-1",
        aws_access_key_id=minio.access_key,
        aws_secret_access_key=minio.secret_key,
    ) as client:
        yield client


async def ensured(minio: Minio, bucket: str) -> bool:
    access = StoreAccess(minio.endpoint, "us-east-1", minio.access_key, minio.secret_key)
    return await ensure_bucket(f"s3://{bucket}", access, staging_days=8.0)


async def test_a_bucket_clears_away_what_is_left_behind(minio: Minio, s3: Any) -> None:
    bucket = f"test-{uuid4().hex}"
    assert await ensured(minio, bucket) is True
    assert await ensured(minio, bucket) is False
    rules = (await s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]
    days = {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule}
    assert days == {"staging/": 8, "promoting/": 1}
    assert all(rule["Status"] == "Enabled" for rule in rules)
    old_versions = {
        rule["Filter"]["Prefix"]: rule["NoncurrentVersionExpiration"]["NoncurrentDays"]
        for rule in rules
        if "NoncurrentVersionExpiration" in rule
    }
    assert old_versions == {"staging/": 30, "promoting/": 30, "": 30}


async def test_rules_of_others_stay(minio: Minio, s3: Any) -> None:
    bucket = f"test-{uuid4().hex}"
    await s3.create_bucket(Bucket=bucket)
    await s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [OTHER]})
    await ensured(minio, bucket)
    rules = (await s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]
    assert {"theirs", "headrace-staging", "headrace-promoting"} <= {rule["ID"] for rule in rules}
