import io
import tarfile
import time
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from headrace.store.blobs import pack

bodies = st.lists(st.binary(max_size=3000), max_size=12)


def named(contents: list[bytes]) -> list[tuple[str, bytes]]:
    return [(sha256(body).hexdigest(), body) for body in contents]


@given(bodies)
def test_any_tar_reads_a_pack(contents: list[bytes]) -> None:
    members = named(contents)
    packed, _ = pack.build(members)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        read = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    assert read == [(f"{digest}.json", body) for digest, body in members]


@given(bodies)
def test_each_place_is_where_its_body_lies(contents: list[bytes]) -> None:
    packed, places = pack.build(named(contents))
    assert [packed[offset : offset + length] for offset, length in places] == contents


def test_headers_are_those_that_tarfile_writes() -> None:
    members = named([b"{}", b"x" * 512, b"y" * 70_000])
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for digest, body in members:
            info = tarfile.TarInfo(f"{digest}.json")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    packed, _ = pack.build(members)
    assert packed[: len(packed) - 1024] == expected.getvalue()[: len(packed) - 1024]


def test_the_same_batch_gives_the_same_bytes() -> None:
    members = named([b"a", b"b"])
    assert pack.build(members) == pack.build(list(members))


def test_an_empty_pack_is_an_empty_archive() -> None:
    packed, places = pack.build([])
    assert places == []
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        assert archive.getnames() == []


def test_packing_costs_microseconds_a_member() -> None:
    members = named([b"%d" % number * 500 for number in range(1000)])
    started = time.perf_counter()
    pack.build(members)
    assert (time.perf_counter() - started) / len(members) < 100e-6


def test_a_blanked_pack_is_a_tar_of_the_same_length_with_what_is_kept_where_it_was() -> None:
    members = named([b"a" * 700, b"b", b"", b"c" * 512, b"d" * 3])
    tar, spans = pack.build(members)
    for kept in ((), (0,), (4,), (1, 3), (0, 2, 4), (2,), (0, 1, 2, 3, 4)):
        blanked = pack.blanked(tar, [spans[index] for index in kept])
        assert len(blanked) == len(tar)
        with tarfile.open(fileobj=io.BytesIO(blanked)) as opened:
            names = [entry.name for entry in opened.getmembers()]
            assert [name for name in names if name != f"{'0' * 64}.json"] == [f"{members[i][0]}.json" for i in kept]
        for index, (offset, length) in enumerate(spans):
            body = members[index][1]
            assert blanked[offset : offset + length] == (body if index in kept else bytes(length))
        assert pack.blanked(blanked, [spans[index] for index in kept]) == blanked
    assert pack.blanked(tar, spans) == tar
