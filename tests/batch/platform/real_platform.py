"""Fills the database and the bucket of a real platform, of any generation."""

import argparse
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from io import BytesIO
from typing import Any

import asyncpg
from aiobotocore.session import get_session
from PIL import Image

ADMIN, READER, PASSWORD = "administrator", "reader", "import-secret"
SERVER, DAY = "import", date(2026, 8, 1)


@contextmanager
def client(options: argparse.Namespace) -> Iterator[Any]:
    yield get_session().create_client(
        "s3",
        endpoint_url=options.s3,
        aws_access_key_id=options.s3_key,
        aws_secret_access_key=options.s3_secret,
        region_name="us-east-1",
    )


async def fill(options: argparse.Namespace, dsn: str) -> None:
    """Create an organisation with cameras, and sequences with images, some of whose boxes are several objects."""
    connection = await asyncpg.connect(dsn)
    rows = Rows(connection)
    now = datetime(DAY.year, DAY.month, DAY.day)  # noqa: DTZ001 - the platform's times have no zone
    organisation = await rows.insert("organizations", name="sdis-07")
    admin = await connection.fetchval("select hashed_password from users")
    role = await connection.fetchval(
        "select r::text from unnest(enum_range(null::userrole)) r where r::text ~* 'agent'"
    )
    await rows.insert(
        "users", login=READER, organization_id=organisation, role=role, created_at=now, hashed_password=admin
    )
    cameras = [
        await rows.insert(
            "cameras",
            organization_id=organisation,
            name=f"tower-{index}",
            angle_of_view=54.2,
            elevation=900.5,
            lat=44.5 + index,
            lon=4.25,
            is_trustable=index != 2,
            created_at=now,
        )
        for index in range(3)
    ]
    choose = random.Random(1)
    with client(options) as made:
        async with made as s3:
            bucket = f"{SERVER}-alert-api-{organisation}"
            if bucket not in {row["Name"] for row in (await s3.list_buckets())["Buckets"]}:
                await s3.create_bucket(Bucket=bucket)
            for index in range(options.sequences):
                await add_sequence(rows, s3, bucket, cameras[index % 3], choose)
    await connection.close()


@dataclass
class Rows:
    """Inserts rows with those of the given columns that the table has."""

    connection: Any
    images: int = 0
    sequences: int = 0

    async def insert(self, table: str, **values: Any) -> int:
        known = await self.connection.fetch(
            "select column_name from information_schema.columns where table_name = $1", table
        )
        names = [row[0] for row in known if row[0] in values]
        places = ", ".join(f"${index}" for index in range(1, len(names) + 1))
        sql = f"insert into {table} ({', '.join(names)}) values ({places}) returning id"
        return int(await self.connection.fetchval(sql, *(values[name] for name in names)))


async def add_sequence(rows: Rows, s3: Any, bucket: str, camera: int, choose: random.Random) -> None:
    azimuth = choose.choice([359.7, 43.4, 0.0])
    if not await has_poses(rows):
        azimuth = float(int(azimuth))  # the older reference importer sends it as it is, which must be whole
    # Two sequences of each pair begin at the same time.
    day = datetime(DAY.year, DAY.month, DAY.day, 8)  # noqa: DTZ001 - the platform's times have no zone
    began = day + timedelta(minutes=rows.sequences // 2)
    rows.sequences += 1
    frames = choose.randint(1, 12)
    ended = began + timedelta(seconds=30 * (frames - 1))
    pose = await rows.insert("poses", camera_id=camera, azimuth=azimuth, active=True) if await has_poses(rows) else None
    sequence = await rows.insert(
        "sequences",
        camera_id=camera,
        pose_id=pose,
        azimuth=azimuth,
        camera_azimuth=azimuth,
        is_wildfire=None,
        started_at=began,
        last_seen_at=ended,
        max_conf=0.9,
        temporal_model_score=choose.choice([None, 0.75]),
        temporal_model_version="0.1.0",
        is_validated=True,
        validation_attempts=0,
    )
    own, other = choose.choice([0.1, 0.3]), choose.choice([0.6, 0.7])
    for index in range(frames):
        rows.images += 1
        key = f"{rows.images}.jpg"
        await s3.put_object(Bucket=bucket, Key=key, Body=jpeg(rows.images))
        box = (round(own + index / 100, 3), 0.1, round(own + 0.2 + index / 100, 3), 0.4, choose.choice([0.0, 0.5]))
        others = [(other, 0.5, round(other + 0.1, 3), 0.7, 0.4)] if choose.random() < 0.6 else []
        seen_at = began + timedelta(seconds=30 * index)
        await rows.insert(
            "detections",
            camera_id=camera,
            pose_id=pose,
            sequence_id=sequence,
            azimuth=azimuth,
            bucket_key=key,
            bbox=str([box]),
            others_bboxes=str(others),
            bboxes=str([box, *others]),
            created_at=seen_at,
            recorded_at=seen_at,
        )


async def has_poses(rows: Rows) -> bool:
    return bool(await rows.connection.fetchval("select to_regclass('public.poses') is not null"))


def jpeg(number: int) -> bytes:
    output = BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 0)).save(output, "JPEG")
    return output.getvalue()
