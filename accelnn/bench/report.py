"""A report in a terminal, with tables that fit it; in a pipe complete and plain."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid

from accelnn.bench import tables
from accelnn.bench.records import Record, Report, TrainingRecord
from accelnn.bench.tables import LEFT, Table, figure, flops, ratio
from accelnn.cli.console import PIPE_WIDTH
from accelnn.gpus import describe_fields

# Columns that are left out, in this order, until a table fits the terminal
EXPENDABLE = (
    *("spread", "error", "compile", "transfer", "threads", "rate", "dtype", "train acc."),
    *("final cost", "solver", "of limit", "test acc.", "× python", "× numpy", "products"),
    *("end to end", "auto", "against"),
)
# What the names in the tables mean
LEGENDS = (
    {"dot": "a · b", "outer": "a bᵀ", "elementwise": "a * b", "gdot": "W x", "matmul": "A B"},
    {
        "python-lists": "the notes' loops over Python lists",
        "python": "the notes' loops over NumPy arrays",
        "numba": "the same loops, compiled",
        "numba-parallel": "compiled, on all cores",
        "notes": "the notes' NumPy expressions",
        "numpy": "NumPy without needless copies",
        "accelnn": 'accelnn.fit with solver="auto"',
        "cupy": "CuPy, on the GPU",
        "accelnn-cupy": 'accelnn.fit with solver="auto", on the GPU',
        "products": "the matrix products of the training alone",
        "torch-gram": "PyTorch in sample space",
    },
    {
        "end to end": "with the transfers to the GPU and back",
        "spread": "fastest and slowest measurement against the median",
        "of limit": "share of the limits measured above",
        "× python": "times as fast as the Python loops",
        "× numpy": "times as fast as NumPy",
        "× torch": "times as fast as PyTorch",
        "error": "relative, against a float64 reference",
        "step": "one update of the weights",
        "products": "share of the time that the matrix products alone take",
    },
)


def show(report: Report, to: Console) -> None:
    """Print the machine and its limits, the tables, and the remarks on them."""
    for line in describe(report):
        to.print(line)
    shown = [record for record in report.records if record.status != "skipped"]
    names = [name for record in shown for name in (record.case, record.implementation)]
    for table in tables.details(report):
        names += _print_table(table, to)
    for legend in LEGENDS:
        known = [f"{name}: {text}" for name, text in legend.items() if name in names]
        if known:
            to.print(f"\n{'; '.join(known)}")
    for table in tables.crossovers(report):
        _print_table(table, to)
    _print_lines("Gains of accelnn:", _gains(tables.split(report)[1]), to)
    for table in tables.growth(report):
        _print_table(table, to)
    _show_remarks(report.records, to)


def describe(report: Report) -> list[str]:
    """The machine, the versions and the measured limits, a line each."""
    machine = report.machine
    memory, cache = machine["memory_bytes"] / 2**30, machine["last_level_cache_bytes"] / 2**20
    vectors = f" with {machine['vector_unit']}" if machine.get("vector_unit") else ""
    cores = f"{machine['processor']}, {machine['cores']} cores{vectors}"
    lines = [f"{cores}, {memory:.0f} GiB, {cache:.0f} MiB last-level cache"]
    if machine["gpu"]:
        lines.append(describe_fields(machine["gpu"]))
    lines.append(", ".join(f"{name} {version}" for name, version in report.versions.items()))
    for backend, limits in report.limits.items():
        what = {"numpy": "CPU: memory", "cupy": "GPU: copying memory"}[backend]
        found = [f"Measured limits of the {what} {figure(limits['stream_gb_per_s'])} GB/s"]
        for name, rate in limits.items():
            if name.startswith("matmul_"):
                precision = name.removeprefix("matmul_").removesuffix("gflop_per_s").strip("_")
                of = f" in {precision}" if precision else ""
                found.append(f"matrix product{of} {flops(rate)}")
        lines.append(", ".join(found))
    for dtype, took in report.warm_up_seconds.items():
        lines.append(f"accelnn.warm_up({dtype!r}) compiled or loaded its solvers in {took:.1f} s")
    return lines


def _gains(trainings: Sequence[TrainingRecord]) -> list[str]:
    """Over PyTorch, by the algorithm and by its implementation; and over each package that trained
    on the same GPU."""
    lines = []
    for case, records in groupby(trainings, key=lambda r: r.case):
        timed = [(r.backend, r.implementation, r.seconds) for r in records if r.seconds]
        seconds = {name: s for _, name, s in timed}
        ours, torch, gram = map(seconds.get, ("accelnn", "torch", "torch-gram"))
        if ours and torch:
            lines.append(f"{case}: {ratio(torch / ours)} times as fast as PyTorch")
            if gram:
                lines[-1] += (
                    f" = {ratio(torch / gram)} by the algorithm (PyTorch given ours: torch-gram)"
                    f" × {ratio(gram / ours)} by its implementation"
                )
        on_gpu = [(s, name) for backend, name, s in timed if backend == "cupy"]
        theirs = [(s, name) for backend, name, s in timed if backend == "cuda"]
        if on_gpu and theirs:
            least, fastest = min(on_gpu)
            gains = [f"{ratio(s / least)} times as fast as {name}" for s, name in theirs]
            lines.append(f"{case}, on the GPU: {fastest} is {', '.join(gains)}")
    return lines


def _print_table(table: Table, to: Console) -> list[str]:
    """Print a table without the expendable columns that do not fit, and their names; return the
    headings that are shown."""
    left_out: list[str] = []
    cells = dict(table.columns)
    for expendable, padding in [("", 1), *((name, 1) for name in EXPENDABLE), ("", 0)]:
        if expendable in cells:
            del cells[expendable]
            left_out.append(expendable)
        grid = _grid(Table(table.title, cells, table.ends), padding, to)
        needed = to.measure(grid, options=to.options.update(width=PIPE_WIDTH)).maximum
        if needed <= to.width:
            break
    to.print()
    to.print(grid)
    if left_out:
        names = ", ".join(left_out)
        text = f"Not shown at this width: {names}; a wider terminal or --json shows them."
        to.print(Padding(text, (0, 0, 0, 1), expand=False))
    if table.note:
        to.print(f"  {table.note}", soft_wrap=True)
    return list(cells)


def _grid(table: Table, padding: int, to: Console) -> Grid:
    grid = Grid(
        title=table.title,
        title_justify="left",
        box=box.SIMPLE_HEAD if to.is_terminal else box.ASCII2,
        padding=(0, padding),
        collapse_padding=to.is_terminal,
        pad_edge=not to.is_terminal,
    )
    for heading in table.columns:
        grid.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=True)
    for number, row in enumerate(table.rows, 1):
        bad = "WRONG" in row or "FAILED" in row
        grid.add_row(*row, style="bold red" if bad else "", end_section=number in table.ends)
    return grid


def _show_remarks(records: list[Record], to: Console) -> None:
    """Print why rows are missing or wrong, what was scaled, and remarks on the rest."""
    remarks: dict[str, dict[str, list[str]]] = {}
    scaled: dict[str, list[str]] = {}
    for record in records:
        grown = "along" in record.size and record.status in ("ok", "skipped")
        if record.reason is None or grown:  # the table of the growth shows it
            continue
        if record.is_scaled:
            scaled.setdefault(record.name, []).append(f"{record.implementation} {record.reason}")
        else:
            skipped = record.status == "skipped"
            row = record.implementation if skipped else f"{record.name} {record.implementation}"
            remarks.setdefault(record.status, {}).setdefault(record.reason, []).append(row)
    lines = [f"{case}: {', '.join(parts)}" for case, parts in scaled.items()]
    _print_lines("~ Scaled to the whole job from:", lines, to)
    bad = {"wrong": "WRONG, so not timed:", "failed": "FAILED:"}
    for status, heading in {"ok": "Notes:", **bad, "skipped": "Skipped:"}.items():
        by_reason = remarks.get(status, {}).items()
        lines = [f"{', '.join(dict.fromkeys(rows))}: {reason}" for reason, rows in by_reason]
        _print_lines(heading, lines, to, "bold red" if status in bad else "")
    trainings = [r for r in records if isinstance(r, TrainingRecord)]
    ours = [r for r in trainings if r.implementation.startswith("accelnn")]
    if in_sample_space := dict.fromkeys(r.case for r in ours if r.in_sample_space):
        to.print(
            f"\n{', '.join(in_sample_space)}: accelnn trains in sample space (solver gram), by "
            "the same gradient descent on the inner products of the examples instead of on their "
            "features. Part of its gain is this algorithm; it does fewer operations than the "
            "others, and no rate is given."
        )
    noisy = [r for r in records if r.seconds and (r.seconds_max or 0) > 1.5 * r.seconds]
    if noisy:
        to.print(
            f"\n{len(noisy)} of {len(records)} rows are unstable (slowest over 1.5 times the "
            "median): other work disturbs this machine."
        )
    if any(r.data == "stand-in" for r in trainings):
        to.print(
            "\nThe cat pictures are a drawn stand-in; the real ones: accelnn data download cats"
        )


def _print_lines(heading: str, lines: Sequence[str], to: Console, style: str = "") -> None:
    if lines:
        to.print(f"\n{heading}", style=style)
    for line in lines:
        to.print(f"  {line}", soft_wrap=True)
