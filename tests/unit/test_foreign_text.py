"""What strangers wrote is bounded, and a terminal may have it."""

import time
import tracemalloc

import pytest

from flower_agent.model import foreign_text
from flower_agent.model.errors import CloneError, Finding

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("größer 数据 🌸", "größer 数据 🌸"),
        ("\x1b]0;title\x07told", "told"),
        ("\x1b]52;c;ZXZpbA==\x1b\\told", "told"),
        ("\x9d52;c;ZXZpbA==\x9ctold", "told"),
        ("\x1b]0;never ended\nnext", "0;never ended\nnext"),
        ("\x1bPq#0;2;0;0;0\x1b\\told", "told"),
        ("\x1b_application\x1b\\\x1b^private\x1b\\\x1bXstring\x1b\\told", "told"),
        ("\x1b[2J\x1b[1;1H\x1b[?1049htold", "told"),
        ("\x9b2Jtold", "told"),
        ("\x1bctold\x1b(0\x1b7", "told"),
        ("10 %\r20 %\x08\x07\x7f", "10 %20 %"),
        ("\x85\x9a\u2028\u2029told", "told"),
        ("\u202eexe\u202c \u2066x\u2069\u200f\u061c", "exe x"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("cut\x1b", "cut"),
        ("cut\x1b[3", "cut"),
        ("lone \ud800", "lone "),
    ],
)
def test_a_terminal_gets_no_control_characters(text, plain):
    assert foreign_text.printable(text) == plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[92mINFO\x1b[0m : ok", "\x1b[92mINFO\x1b[0m : ok"),
        ("\x1b[1;38;5;8mgrey\x1b[m", "\x1b[1;38;5;8mgrey\x1b[m"),
        ("\x1b[38;2;1;2;3mrgb\x1b[0m", "\x1b[38;2;1;2;3mrgb\x1b[0m"),
        ("\x9b31mred\x9b0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
        ("\x1b[31mred\x1b[0;1mbold", "\x1b[31mred\x1b[0;1mbold\x1b[0m"),
        ("\x1b[8mconcealed", "concealed"),
        ("\x1b[31;5mblinks", "blinks"),
        ("\x1b[31m\x1b]0;t\x07\x1b[2Kred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[>4;2mkeys", "keys"),
    ],
)
def test_colours_stay_where_they_are_wanted_and_end_with_the_text(text, shown):
    assert foreign_text.printable(text, color=True) == shown


def test_what_is_removed_does_not_make_a_new_sequence():
    for text in ("\x1b\x1b[2J[2J", "\x1b\x07[2J", "\x1b]0;\x1b[31m\x07", "\x1b[\x1b[31m2J"):
        for color in (False, True):
            once = foreign_text.printable(text, color=color)
            assert foreign_text.printable(once, color=color) == once


def test_lines_are_cut_counted_and_the_last_ones():
    text = "".join(f"{number} {'x' * 100}\n" for number in range(100))
    found = list(foreign_text.lines(text, limit=10, most=3))
    assert found == [f"{number} xxxxxxx{foreign_text.CUT}" for number in (97, 98, 99)]
    shown = [line.partition(" ")[0] for line in foreign_text.lines(text, most=2, first=3)]
    assert shown == ["0", "1", "2", "98", "99"]
    assert list(foreign_text.lines("one\ntwo\n", first=5)) == ["one", "two"]
    assert list(foreign_text.lines("")) == []
    assert list(foreign_text.lines("one\n\ntwo\n")) == ["one", "", "two"]
    assert list(foreign_text.lines("one\r\ntwo\r\n")) == ["one", "two"]


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029"])
def test_only_a_line_feed_ends_a_line(end):
    assert list(foreign_text.lines(f"app{end}SuperNode ID: 7")) == ["appSuperNode ID: 7"]


def test_a_stream_is_read_line_by_line_however_it_is_cut():
    text = "one\ntwo\n\nthree"
    for size in range(1, len(text)):
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(foreign_text.streamed(chunks)) == ["one", "two", "", "three"]


def test_a_line_that_never_ends_takes_no_memory():
    tracemalloc.start()
    try:
        (line,) = foreign_text.streamed("x" * 65536 for _ in range(1000))
        assert len(foreign_text.bounded((b"x" * 65536 for _ in range(1000)), 100_000)) == 100_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert line == "x" * foreign_text.LINE + foreign_text.CUT
    assert peak < MEBIBYTE


def test_of_bytes_the_last_ones_are_kept():
    assert foreign_text.bounded(b"abcdef", 3) == b"def"
    assert foreign_text.bounded([b"ab", b"", b"cd", b"ef"], 3) == b"def"
    assert foreign_text.bounded([], 3) == b""
    assert foreign_text.bounded(b"abcdef", 3, first=2) == b"ab\ndef"
    assert foreign_text.bounded([b"a", b"bc", b"de", b"f"], 3, first=2) == b"ab\ndef"
    assert foreign_text.bounded([b"a", b"bc", b"de"], 3, first=2) == b"abcde"
    assert foreign_text.decoded([b"ab\xff", b"c"], 2) == "\ufffdc"


@pytest.mark.parametrize(
    "piece",
    ["\x1b[", "\x1b]", "\x1b", "\x9b0;", "\x1b[31;", "\x1b]0;x\x1b", "\x90", "\x1b[31m", "\r"],
)
def test_a_hostile_mebibyte_is_clean_in_a_moment(piece):
    text = piece * (MEBIBYTE // len(piece))
    began = time.process_time()
    foreign_text.printable(text, color=True)
    assert len(list(foreign_text.lines(text + "\n" * MEBIBYTE))) == foreign_text.LINES
    assert time.process_time() - began < 3


def test_every_finding_is_short_and_plain():
    error = CloneError("run.clone", "git says \x1b]0;owned\x07fatal" + "!" * MEBIBYTE)
    assert str(error).startswith("run.clone: git says fatal!!!")
    assert len(str(error)) < 2 * foreign_text.MESSAGE
    assert Finding("run.clone", "x", "do \x1b[2Jthis").hint == "do this"
