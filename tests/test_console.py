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


def test_blanks_inside_an_unfinished_line_stay():
    file = io.StringIO()
    console(file).print("cost: ", end="")
    assert file.getvalue() == "cost: "
