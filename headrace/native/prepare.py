"""Getting what each part needs onto this machine, before anything is started."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from headrace.native import kafka, kafka_jars, minio, postgres, postgres_home, valkey
from headrace.native.config import ServerTools, StackConfig
from headrace.native.java import find_java
from headrace.native.layout import StateDir


def prepare(config: StackConfig, state: StateDir, progress: Callable[[str], None]) -> StackConfig:
    """Find or install every program and lay out every part's data; may be repeated.

    Raises HeadraceError when a part cannot be had.
    """
    with ThreadPoolExecutor(2) as pool:
        java = pool.submit(_java_and_jars, progress)
        user = postgres_home.account()
        tools = ServerTools(
            postgres_bin=postgres_home.programs(user),
            postgres_home=postgres_home.data_home(state, user),
            postgres_user=user,
            valkey=valkey.find_valkey(),
            java=java.result(),
            # Last, because a build takes minutes and every other part should have said by then what it lacks.
            minio=minio.install(progress) if config.store == "minio" else None,
        )
    config = replace(config, tools=tools)
    with ThreadPoolExecutor(2) as pool:
        database = pool.submit(postgres.init_database, config, progress)
        storage = pool.submit(kafka.format_storage, config, state, progress)
        valkey.write_settings(config, state)
        (state.part("minio") / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        if config.store == "local":
            state.blobs.mkdir(mode=0o700, exist_ok=True)
            state.archive.mkdir(mode=0o700, exist_ok=True)
        database.result()
        storage.result()
    return config


def _java_and_jars(progress: Callable[[str], None]) -> Path:
    java = find_java()
    kafka_jars.install(progress)
    return java
