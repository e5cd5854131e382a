"""The commands' output to a pipe."""

import io

import pytest

from accelnn.cli.console import console, names_and_texts


@pytest.fixture
def printed(monkeypatch):
    """A function that prints a table with these texts and returns the lines."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def lines(*texts):
        table, file = names_and_texts(), io.StringIO()
        for text in texts:
            table.add_row("name", text)
        console(file).print(table)
        return file.getvalue().splitlines()

    return lines


def test_lines_in_a_pipe_end_without_blanks(printed):
    lines = printed("short", "longer " * 30)
    assert [line.rstrip() for line in lines] == lines
    assert lines[1].endswith("  short")


def test_lines_in_a_pipe_are_not_broken(printed):
    assert len(printed("longer " * 30)) == len(printed("short"))


def test_lines_in_a_pipe_are_as_wide_as_columns_says(printed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    lines = printed("longer " * 30)
    assert 40 < max(map(len, lines)) <= 50


def test_texts_cannot_style_a_terminal_but_the_command_can(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    file.isatty = lambda: True
    to, table = console(file), names_and_texts()
    table.add_row("a\x1b[31m", "b\x9b31m\u2066c [red]:cat:[/red]")
    to.print(table)
    to.print("two\nlines\x7f", style="red")
    shown = file.getvalue()
    assert "\x1b[1m" in shown  # the names are bold
    assert "\x1b[31mtwo" in shown
    assert "lines?" in shown
    assert "a?[31m" in shown
    assert "b?31m?c [red]:cat:[/red]" in shown


def test_blanks_inside_an_unfinished_line_stay():
    file = io.StringIO()
    console(file).print("cost: ", end="")
    assert file.getvalue() == "cost: "
