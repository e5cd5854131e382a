"""Tables of a benchmark's records, for people: rich in a terminal, plain text in a pipe."""

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

from accelnn.bench.records import Record, Report, TrainingRecord

# heading: what it shows of a record, given all records of the same case and size
Columns = dict[str, Callable[[Record, list[Record]], str]]

COMMON: Columns = {
    "implementation": lambda r, _: r.implementation,
    "threads": lambda r, _: _text(r.threads),
    "time": lambda r, _: _time(r),
    "spread": lambda r, _: _spread(r),
    "rate": lambda r, _: _rate(r),
    "of limit": lambda r, _: _percent(r.share_of_limit),
    "× python": lambda r, group: _times(r, group, "python"),
    "× numpy": lambda r, group: _times(r, group, "numpy"),
    "error": lambda r, _: _text(r.max_rel_error, ".0e" if r.max_rel_error else ".0f"),
    "compile": lambda r, _: _seconds(r.compile_seconds) if (r.compile_seconds or 0) > 1e-3 else "",
    "transfer": lambda r, _: _seconds(r.transfer_seconds),
}
OPERATION: Columns = {
    "case": lambda r, _: r.case,
    "n": lambda r, _: f"{r.size['n']:,}",
    **COMMON,
}
TRAINING: Columns = {
    "recipe": lambda r, _: r.case,
    **COMMON,
    "final cost": lambda r, _: _text(getattr(r, "final_cost", None), ".6f"),
    "train": lambda r, _: _percent(getattr(r, "train_accuracy", None)),
    "test": lambda r, _: _percent(getattr(r, "test_accuracy", None)),
}
LEFT = ("case", "recipe", "implementation")
# left out, one after the other, until the table fits the terminal
EXPENDABLE = ("spread", "error", "compile", "transfer", "threads", "rate", "of limit")
PIPE_WIDTH = 1000  # where the output is no terminal: no line is broken


def console(file: IO[str]) -> Console:
    """A console that takes text as it is, and cuts no column off where it is no terminal."""
    if file.isatty():
        return Console(file=file, markup=False, highlight=False)
    return Console(file=file, markup=False, highlight=False, no_color=True, width=PIPE_WIDTH)


def show(report: Report, to: Console) -> None:
    """Print the machine, a table of the operations and one of the trainings, and what failed."""
    machine = report.machine
    to.print(
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['last_level_cache_bytes'] / 2**20:.0f} MiB last-level cache"
        + (f"; {machine['gpu']}" if machine["gpu"] else "")
    )
    to.print(", ".join(f"{name} {version}" for name, version in report.versions.items()))
    for backend, limits in report.limits.items():
        to.print(
            f"Limits measured on {backend}: memory {limits['stream_gb_per_s']:.1f} GB/s, "
            f"matrix product {limits['matmul_gflop_per_s']:.1f} GFLOP/s"
        )
    trainings = [r for r in report.records if isinstance(r, TrainingRecord)]
    operations = [r for r in report.records if not isinstance(r, TrainingRecord)]
    for title, records, columns in (
        ("Operations", operations, OPERATION),
        ("Trainings", trainings, TRAINING),
    ):
        shown = [record for record in records if record.status != "skipped"]
        if shown:
            to.print()
            to.print(_table(title, shown, columns, to))
    _show_remarks(report.records, to)


def _table(title: str, records: Sequence[Record], columns: Columns, to: Console) -> Table:
    """All columns in which something stands; fewer where the terminal is too narrow."""
    groups = [list(group) for _, group in groupby(records, key=lambda r: (r.case, r.size))]
    cells = {}
    for heading, show in columns.items():
        texts = [show(record, group) for group in groups for record in group]
        if any(texts):
            cells[heading] = texts
    ends = set(accumulate(map(len, groups)))
    for expendable in ("", *EXPENDABLE):
        cells.pop(expendable, None)
        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD if to.is_terminal else box.ASCII2,
        )
        for heading in cells:
            table.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=True)
        for row, line in enumerate(zip(*cells.values(), strict=True), 1):
            bad = "WRONG" in line or "FAILED" in line
            table.add_row(*line, style="bold red" if bad else "", end_section=row in ends)
        wanted = to.measure(table, options=to.options.update(width=PIPE_WIDTH)).maximum
        if wanted <= to.width:
            break
    return table


def _time(record: Record) -> str:
    if record.seconds is None:
        return record.status.upper()
    return ("~" if record.reason else "") + _seconds(record.seconds)


def _rate(record: Record) -> str:
    if record.gb_per_s is not None:
        return f"{record.gb_per_s:.3g} GB/s"
    return "" if record.gflop_per_s is None else f"{record.gflop_per_s:.3g} GFLOP/s"


def _show_remarks(records: list[Record], to: Console) -> None:
    """What the tables do not show: why rows are missing or wrong, what was scaled, what drifts."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.reason is not None:
            who = record.implementation if record.status == "skipped" else _name(record)
            by_reason.setdefault((record.status, record.reason), []).append(who)
    for status, heading in (
        ("ok", "~ Scaled to the whole job; measured were:"),
        ("wrong", "WRONG, so not timed:"),
        ("failed", "FAILED:"),
        ("skipped", "Skipped:"),
    ):
        remarks = [(reason, who) for (s, reason), who in by_reason.items() if s == status]
        if remarks:
            to.print(f"\n{heading}", style="" if status in ("ok", "skipped") else "bold red")
        for reason, names in remarks:
            to.print(f"  {', '.join(dict.fromkeys(names))}: {reason}", soft_wrap=True)
    noisy = [r for r in records if r.seconds and (r.seconds_max or 0) > 1.5 * r.seconds]
    if noisy:
        to.print(
            f"\n{len(noisy)} of {len(records)} rows are unstable (slowest over 1.5 times the "
            "median): other work disturbs this machine."
        )
    if any(isinstance(r, TrainingRecord) and r.data == "stand-in" for r in records):
        to.print(
            "\nThe cat pictures are a drawn stand-in. For the real ones put train_catvnoncat.h5 "
            "and test_catvnoncat.h5 into a folder and name it in ACCELNN_DATA."
        )


def _name(record: Record) -> str:
    size = f"({record.size['n']:,})" if "n" in record.size else ""
    return f"{record.case}{size} {record.implementation}"


def _times(record: Record, group: list[Record], baseline: str) -> str:
    """How many times faster than the baseline of the same case and size."""
    base = next((r.seconds for r in group if r.implementation == baseline and r.seconds), None)
    if base is None or record.seconds is None:
        return ""
    ratio = base / record.seconds
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}"


def _spread(record: Record) -> str:
    if record.seconds is None or record.seconds_min is None or record.seconds_max is None:
        return ""
    if record.repeats == 1:
        return "once"
    below, above = (t / record.seconds - 1 for t in (record.seconds_min, record.seconds_max))
    return f"{below:+.0%} {above:+.0%}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds >= 1000:
        return f"{seconds:,.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _text(value: object, form: str = "") -> str:
    return "" if value is None else format(value, form)
