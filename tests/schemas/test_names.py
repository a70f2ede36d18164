import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas.limits import CODE_BYTES_MAX, NAME_BYTES_MAX
from headrace.schemas.names import check_code, check_name
from headrace.schemas.reject import RejectCode, RejectedError


@pytest.mark.parametrize(
    "name", ["cam-1", "Kamera 7 · Halle B", "カメラ", "a", "x" * NAME_BYTES_MAX, "'; DROP", "%s{}"]
)
def test_a_name_that_can_be_shown_passes(name: str):
    check_name(name, "source_id")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * (NAME_BYTES_MAX + 1), "bytes"),
        ("é" * (NAME_BYTES_MAX // 2 + 1), "bytes"),
        ("a\nb", "U+000A"),
        ("a\x00", "U+0000"),
        ("a\x1b[31m", "U+001B"),
        ("a\x85b", "U+0085"),
        ("a\u2028b", "U+2028"),
        ("gpj\u202e.exe", "U+202E"),
        ("\u2066a", "U+2066"),
        ("\ud800", "surrogate"),
        (" a", "space"),
        ("a\u3000", "space"),
    ],
)
def test_a_name_that_cannot_be_shown_is_refused_without_being_repeated(name: str, says: str):
    with pytest.raises(RejectedError, match="site") as refused:
        check_name(name, "site")
    assert refused.value.code is RejectCode.FIELD_OUT_OF_RANGE
    assert says in refused.value.reason
    assert name not in refused.value.reason


def test_an_empty_name_is_missing():
    with pytest.raises(RejectedError) as refused:
        check_name("", "site")
    assert refused.value.code is RejectCode.MISSING_FIELD


@given(st.text())
def test_any_text_passes_or_is_refused(name: str):
    try:
        check_name(name, "site")
    except RejectedError:
        return
    assert name.strip() == name
    assert 0 < len(name.encode()) <= NAME_BYTES_MAX
    assert name.splitlines() == [name]


@pytest.mark.parametrize("code", ["]d2\x1d0112345", " a ", "a\nb", "x" * CODE_BYTES_MAX, "\u202e"])
def test_a_code_is_whatever_was_printed(code: str):
    check_code(code, "code")


@pytest.mark.parametrize(
    ("code", "says"),
    [("", "is empty"), ("a\x00", "U+0000"), ("\ud800", "surrogate"), ("é" * (CODE_BYTES_MAX // 2 + 1), "4098 bytes")],
)
def test_a_code_that_cannot_be_kept_is_refused_without_being_repeated(code: str, says: str):
    with pytest.raises(RejectedError, match="about") as refused:
        check_code(code, "about")
    assert says in refused.value.reason
    assert len(refused.value.reason) < 100
