"""The examples of the documents run as they stand: `bash` blocks command by command, `python` blocks as programs.

A block without a language is an illustration and is not run. What a reader brings along (pictures, a video, an id of
their own) is put in place of the names that the documents use.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.native import status
from tests.producers.sample_media import write_video

ROOT = Path(__file__).parents[2]
COMMAND_S_MAX = 120
ANY_ID = "3f2a"  # how the documents write an id
BOOTSTRAP = "kafka.factory-a:9092"  # how they write the address of Kafka
DOCUMENTS = ["README.md", "docs/runbook.md"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a whole stack of the reader's own


def blocks_of(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands_of(document: str) -> list[str]:
    lines = "".join(blocks_of(document, "bash")).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.partition("  #")[0].strip())]


@dataclass(frozen=True)
class Installation:
    """A folder in which somebody follows the documents."""

    folder: Path

    def run(self, command: str, *, seconds: float = COMMAND_S_MAX) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env(),
            capture_output=True,
            text=True,
            errors="replace",  # a console consumer prints Avro as it is
            timeout=seconds,
            check=False,
        )

    def env(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        return env | {"PATH": path, "COLUMNS": "80"}

    @contextmanager
    def removed_afterwards(self) -> Iterator[None]:
        """Remove the stack in the end, also if this process is killed: then the pipe closes."""
        command = "cat; headrace down --purge"
        remover = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self.env(), stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            yield
        finally:
            remover.communicate()

    def program(self, text: str) -> "subprocess.CompletedProcess[str]":
        """Run a Python example in the folder of the running stack."""
        info = status(self.folder / ".headrace").info
        assert info is not None
        (self.folder / "example.py").write_text(text.replace(BOOTSTRAP, info.kafka))
        return subprocess.run(
            [sys.executable, "example.py"],
            cwd=self.folder,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )

    def record_ids(self) -> list[str]:
        listed = self.run("headrace ls --json")
        assert listed.returncode == 0, listed.stderr
        return [record["record_id"] for record in json.loads(listed.stdout.splitlines()[-1])["records"]]

    def wait_for_records(self) -> str:
        """Return the newest record's id; publishing returns before the record is ingested."""
        deadline = time.monotonic() + COMMAND_S_MAX
        while not (ids := self.record_ids()):
            assert time.monotonic() < deadline, "nothing that was published is listed"
            time.sleep(0.5)
        return ids[0]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A folder with pictures and a video of the reader's own; the stack that it starts is removed afterwards."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "pictures").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (120, 160, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.jpg")
    write_video(folder / "video.mp4", 2)
    reader = Installation(folder)
    with reader.removed_afterwards():
        yield reader


@pytest.fixture
def running(installation: Installation) -> Installation:
    """The reader's folder, with a stack that has ingested something."""
    started = installation.run("headrace up", seconds=300)
    assert started.returncode == 0, started.stderr
    if not installation.record_ids():
        assert installation.run("headrace publish frame pictures --source cam-0 --site factory-a").returncode == 0
        installation.wait_for_records()
    return installation


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_works_as_it_stands(running: Installation, document: str) -> None:
    commands = commands_of(document)
    assert commands
    for command in commands:
        ended = running.run(command.replace(ANY_ID, running.record_ids()[0]) if ANY_ID in command else command)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"


def test_the_python_examples_of_the_readme_publish_and_consume(running: Installation) -> None:
    publish, consume = blocks_of("README.md", "python")
    published = running.program(publish)
    assert published.returncode == 0, published.stderr
    consumed = running.program("import os\ndef train(body): print(len(body), flush=True); os._exit(0)\n" + consume)
    assert consumed.returncode == 0, consumed.stderr
    assert int(consumed.stdout) > 0


def test_the_consumer_of_the_docs_prints_and_ends_cleanly_on_ctrl_c(running: Installation) -> None:
    [example] = blocks_of("docs/consuming.md", "python")
    (running.folder / "consumer.py").write_text(example)
    command = [sys.executable, "-u", "consumer.py"]
    with subprocess.Popen(
        command, cwd=running.folder, env=running.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as consumer:
        assert consumer.stdout is not None
        assert consumer.stderr is not None
        assert consumer.stdout.readline().startswith("factory-a cam-")
        consumer.send_signal(signal.SIGINT)
        errors = consumer.stderr.read()
    assert (consumer.returncode, errors) == (0, "")
