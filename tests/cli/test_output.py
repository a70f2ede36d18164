"""What was ingested may hold anything; on a terminal it must only be looked at."""

import json

import pytest

from headrace.cli.output import print_json, print_table, say

HOSTILE = "[/x] [red]A[/red] :smile: \x1b[2J\r\n\x9b1m gpj.\u202eexe \x7f"
SHOWN = r"[/x] [red]A[/red] :smile: \x1b[2J\r\n\x9b1m gpj.\u202eexe \x7f"


def test_a_cell_is_no_markup_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("what", "number"), [(HOSTILE, 1), (None, 2), ("\udcff", 3)])
    out = capsys.readouterr().out
    assert SHOWN in out
    assert r"\udcff" in out


def test_talk_is_no_markup_and_only_its_lines_break(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"first\n{HOSTILE}")
    assert capsys.readouterr().err == "first\n" + SHOWN.replace(r"\r\n", "\\r\n") + "\n"


def test_json_is_the_same_value_in_safe_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: HOSTILE, "plain": "é"})
    out = capsys.readouterr().out
    assert json.loads(out) == {HOSTILE: HOSTILE, "plain": "é"}
    assert not {"\x1b", "\x9b", "\u202e", "\x7f", "\r"} & set(out)
    assert "é" in out
