"""Tables of stored results as Markdown, and pages that contain them between two comments.

The first names the JSON (relative to the page), a section of `tables.SECTIONS`, and the rows if not
all are shown:

    <!-- table: results/machine.json operations dot(15) matmul(1,000) -->
    <!-- end -->

`python -m accelnn.bench.pages PAGE ...` writes what belongs between them.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from accelnn.bench.records import Report
from accelnn.bench.tables import LEFT, SECTIONS, Table
from accelnn.files import write_whole

MARKED = re.compile(r"(<!-- table: (\S+) (\S+)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(table: Table, rows: Sequence[str] = ()) -> str:
    """The table, or the rows that begin with these cells; the fastest of each row in bold."""
    lines = [tuple(table.columns), ["---" if h in LEFT else "---:" for h in table.columns]]
    lines += [row for row in table.rows if not rows or row[0] in rows]
    return "".join(f"| {' | '.join(map(_bold, line))} |\n" for line in lines)


def _bold(cell: str) -> str:
    return f"**{cell[1:]}**" if cell.startswith("*") else cell


def to_markdown(report: Report) -> str:
    """All tables of a report, each under its title."""
    parts = []
    for table in (table for section in SECTIONS.values() for table in section(report)):
        note = table.note.replace("* fastest", "Bold is the fastest")
        parts += [f"### {table.title}\n", markdown(table), *([f"{note}\n"] if note else [])]
    return "\n".join(parts)


def refreshed(page: Path) -> str:
    """The page's text, with its tables as the stored results have them.

    Raises OSError or ValueError if a result, a section or a row is missing.
    """

    def fill(match: re.Match[str]) -> str:
        begin, file, section, rows, end = match.groups()
        if section not in SECTIONS:
            raise ValueError(f"{page}: no section {section}: expected one of {list(SECTIONS)}")
        found = SECTIONS[section](Report.read(page.parent / file))
        known = {row[0] for table in found for row in table.rows}
        missing = {*rows.split()} - known
        if missing or not found:
            raise ValueError(f"{page}: {file} {section} has no row {', '.join(sorted(missing))}")
        return begin + "\n".join(markdown(table, rows.split()) for table in found) + end

    return MARKED.sub(fill, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_whole(refreshed(Path(name)), Path(name))
