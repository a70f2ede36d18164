from uuid import UUID

from headrace.cli.display import DIGITS_MIN, fields_of, moment, short_ids
from headrace.cli.output import print_table

FIRST, SECOND = UUID("0b5f4d0e-2f0a-5b0e-9a58-1f6c1f6f2d11"), UUID("0b5f4d0e-2f0b-5b0e-9a58-1f6c1f6f2d11")


def test_a_short_id_is_as_long_as_it_takes_to_tell_the_ids_apart():
    assert short_ids([FIRST]) == {str(FIRST): "0b5f4d0e"}
    assert short_ids([FIRST, SECOND]) == {str(FIRST): "0b5f4d0e2f0a", str(SECOND): "0b5f4d0e2f0b"}


def test_a_short_id_grows_with_the_catalog():
    assert len(short_ids([FIRST], total=10_000_000)[str(FIRST)]) == 10
    assert len(short_ids([FIRST], total=1)[str(FIRST)]) == DIGITS_MIN


def test_times_are_shown_as_times():
    assert moment(1_790_000_000_123_456) == "2026-09-21 14:13:20"
    assert moment(None) == ""
    members = {"captured_at_us": 1_790_000_000_123_456, "duration_us": 1_500_000, "code": None, "site": "a"}
    assert fields_of(members) == [
        ("captured_at", "2026-09-21T14:13:20.123456Z"),
        ("duration", "1.5 s"),
        ("site", "a"),
    ]


def test_a_piped_table_folds_nothing(capsys):
    print_table(("id", "reason"), [("0b5f4d0e", "word " * 100)])
    assert len(capsys.readouterr().out.splitlines()) == 2
