"""Tables of a benchmark's records, as text: for the terminal, for Markdown, for a chart."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, groupby
from typing import Any

from accelnn.bench.records import Record, Report, TrainingRecord, crossings


@dataclass
class Table:
    """Columns of text under their headings, and a note below; `ends` numbers the last rows of
    groups."""

    title: str
    columns: dict[str, list[str]]
    ends: set[int] = field(default_factory=set)
    note: str = ""

    @property
    def rows(self) -> list[tuple[str, ...]]:
        return list(zip(*self.columns.values(), strict=True))


# Columns of text, which are aligned to the left
LEFT = ("case", "operation", "implementation", "solver", "dtype", "picked", "against", "")

# --------------------------------------------------------------------------------------------
# figures


def seconds(value: float | None) -> str:
    """A time to three digits, in the unit that fits."""
    if value is None:
        return ""
    if 1000 <= value < 3600:
        return f"{float(f'{value:.3g}'):,.0f} s"
    units = ((3600.0, "h"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns"))
    size, unit = next(pair for pair in units if abs(value) >= pair[0])
    return f"{value / (size or 1e-9):.3g} {unit}"


def ratio(value: float) -> str:
    """Two digits up to 99, then three."""
    return f"{value:.2g}" if value < 99.5 else f"{float(f'{value:.3g}'):,.0f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def figure(value: float) -> str:
    """To three digits, without an exponent for large values."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def flops(gflop_per_s: float) -> str:
    large = gflop_per_s >= 1e4
    return f"{figure(gflop_per_s / (1e3 if large else 1))} {'T' if large else 'G'}FLOP/s"


def time(record: Record) -> str:
    """The record's time, with ~ if only a part was measured; or that it is wrong or failed."""
    if record.seconds is None:
        return "" if record.status == "skipped" else record.status.upper()
    return ("~" if record.is_scaled else "") + seconds(record.seconds)


# --------------------------------------------------------------------------------------------
# a row for each record

# A function of a record, and of all records of its case and size
Cell = Callable[[Any, list[Any]], str]


def _faster(baseline: str, record: Record, group: list[Record]) -> str:
    base = _seconds_of(baseline, group)
    return ratio(base / record.seconds) if base and record.seconds else ""


def _seconds_of(implementation: str, group: Iterable[Record]) -> float | None:
    return next((r.seconds for r in group if r.implementation == implementation), None)


def _spread(record: Record) -> str:
    if record.seconds is None or record.seconds_min is None or record.seconds_max is None:
        return ""
    below, above = (t / record.seconds - 1 for t in (record.seconds_min, record.seconds_max))
    return "once" if record.repeats == 1 else f"{below:+.0%} {above:+.0%}"


def _rate(record: Record) -> str:
    if record.gb_per_s is not None:
        return f"{figure(record.gb_per_s)} GB/s"
    return "" if record.gflop_per_s is None else flops(record.gflop_per_s)


def _dtype(record: TrainingRecord, group: list[TrainingRecord]) -> str:
    """The precision of the products; empty if it is the dtype in the whole group."""
    precisions = [other.precision or other.dtype for other in (record, *group)]
    return precisions[0] if {*precisions} != {record.dtype} else ""


def _solver(record: TrainingRecord) -> str:
    """The solver, unless it is the implementation's name."""
    return "" if record.solver in (None, record.implementation) else str(record.solver)


def _share_of_products(record: Record, group: list[Record]) -> str:
    alone = _seconds_of("products", group)
    return percent(alone / record.seconds) if alone and record.seconds else ""


COLUMNS: dict[str, Cell] = {
    "case": lambda r, _: r.case,
    "n": lambda r, _: f"{r.size['n']:,}",
    "implementation": lambda r, _: r.implementation,
    "threads": lambda r, _: str(r.threads or ""),
    "dtype": _dtype,
    "solver": lambda r, _: _solver(r),
    "time": lambda r, _: time(r),
    "end to end": lambda r, _: seconds(r.end_to_end_seconds),
    "spread": lambda r, _: _spread(r),
    "rate": lambda r, _: _rate(r),
    "step": lambda r, _: seconds(r.seconds / r.steps if r.seconds else None),
    "products": _share_of_products,
    "of limit": lambda r, _: percent(r.share_of_limit),
    "× python": partial(_faster, "python"),
    "× numpy": partial(_faster, "numpy"),
    "× torch": partial(_faster, "torch"),
    "error": lambda r, _: "" if r.max_rel_error is None else f"{r.max_rel_error:.0e}",
    "compile": lambda r, _: seconds(r.compile_seconds) if (r.compile_seconds or 0) > 1e-3 else "",
    "transfer": lambda r, _: seconds(r.transfer_seconds),
    "final cost": lambda r, _: "" if r.final_cost is None else f"{r.final_cost:.6f}",
    "train acc.": lambda r, _: percent(r.train_accuracy),
    "test acc.": lambda r, _: percent(r.test_accuracy),
}
# By title, the headings that a table leaves out
_OF_TRAININGS = ("dtype", "solver", "step", "products", "final cost", "train acc.", "test acc.")
_LEFT_OUT = {
    "Operations on vectors of n or matrices of n × n numbers": (*_OF_TRAININGS, "× torch"),
    "Trainings": ("n", "end to end", "step", "products"),
    "Trainings in mini-batches": ("n", "end to end", "rate", "× python"),
}


def details(report: Report) -> list[Table]:
    """The operations, trainings and trainings in mini-batches: all that is known of each row."""
    operations, trainings, _ = split(report)
    full = [record for record in trainings if not record.batch_size]
    mini = [record for record in trainings if record.batch_size]
    parts: tuple[Sequence[Record], ...] = (operations, full, mini)
    tables = []
    for (title, left_out), records in zip(_LEFT_OUT.items(), parts, strict=True):
        groups = by_name(records)
        columns = {
            heading: [show(record, group) for group in groups for record in group]
            for heading, show in COLUMNS.items()
            if heading not in left_out
        }
        if groups:
            tables.append(Table(title, _filled(columns), set(accumulate(map(len, groups)))))
    return tables


def _filled(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """The columns that are not empty."""
    return {heading: texts for heading, texts in columns.items() if any(texts)}


def split(report: Report) -> tuple[list[Record], list[TrainingRecord], list[TrainingRecord]]:
    """The operations, the trainings, and the trainings that grow; without the skipped ones."""
    records = [record for record in report.records if record.status != "skipped"]
    trainings = [record for record in records if isinstance(record, TrainingRecord)]
    return (
        [record for record in records if not isinstance(record, TrainingRecord)],
        [record for record in trainings if "along" not in record.size],
        [record for record in trainings if "along" in record.size],
    )


def by_name(records: Iterable[Record]) -> list[list[Any]]:
    """The records in groups of the same case and size."""
    return [list(group) for _, group in groupby(records, key=lambda r: (r.case, r.size))]


# --------------------------------------------------------------------------------------------
# a row for each case and size, a column for each implementation


def _pivot(
    title: str, groups: Sequence[list[Any]], cell: Cell, more: Callable[[list[Any]], dict[str, str]]
) -> list[Table]:
    """A row for each group: its name, a cell for each of its records, and more columns."""
    cells = [{r.implementation: cell(r, group) for r in group} for group in groups]
    extra = [more(group) for group in groups]
    columns = {"": [group[0].name for group in groups]}
    for rows in (cells, extra):
        for heading in dict.fromkeys(name for row in rows for name in row):
            columns[heading] = [row.get(heading, "") for row in rows]
    return [Table(title, _filled(columns))] if groups else []


def _starred(record: Record, group: list[Record]) -> str:
    """The time, with a star if it is the shortest of the group."""
    return ("*" if record is _fastest(group) else "") + time(record)


def _fastest(group: Iterable[Record]) -> Record | None:
    timed = [r for r in group if r.seconds and r.implementation not in ("auto", "products")]
    return min(timed, key=lambda r: r.seconds or 0.0, default=None)


def operations(report: Report) -> list[Table]:
    """The times of the operations, and NumPy's share of the machine's limit."""

    def limit(group: list[Record]) -> dict[str, str]:
        shares = [r.share_of_limit for r in group if r.implementation == "numpy"]
        return {"numpy of limit": percent(shares[0]) if shares else ""}

    return _pivot("Operations", by_name(split(report)[0]), _starred, limit)


def trainings(report: Report) -> list[Table]:
    """The times of the trainings, and the outcome that all of them have."""

    def outcome(group: list[TrainingRecord]) -> dict[str, str]:
        ended = next((r for r in group if r.final_cost is not None), None)
        if ended is None:
            return {}
        scores = percent(ended.train_accuracy), percent(ended.test_accuracy)
        return {"final cost": f"{ended.final_cost:.6f}", "train / test": " / ".join(scores)}

    return _pivot("Trainings", by_name(split(report)[1]), _starred, outcome)


def peers(report: Report) -> list[Table]:
    """accelnn's times, and how many times as long the others took."""

    def cell(record: TrainingRecord, group: list[TrainingRecord]) -> str:
        ours = _seconds_of("accelnn", group)
        if record.implementation == "accelnn" or not ours or not record.seconds:
            return time(record)
        times = record.seconds / ours
        return f"{ratio(times) if times > 99.5 else f'{times:.3g}'} ×"

    def solver(group: list[TrainingRecord]) -> dict[str, str]:
        return {"solver": next(_solver(r) for r in group if r.implementation == "accelnn")}

    groups = [group for group in by_name(split(report)[1]) if _seconds_of("accelnn", group)]
    return _pivot("Times as long as accelnn", groups, cell, solver)


def growth(report: Report) -> list[Table]:
    """For each growing quantity the times of the solvers, the one that "auto" picked, and the
    time of the fastest as a share of auto's."""

    def pick(group: list[TrainingRecord]) -> dict[str, str]:
        auto = next((r for r in group if r.implementation == "auto" and r.seconds), None)
        best = _fastest(group)
        if auto is None or best is None:
            return {}
        share = (best.seconds or 0.0) / (auto.seconds or 1.0)
        return {"picked": str(auto.solver), "best/auto": f"{share:.2f}"}

    tables = []
    for _, rows in groupby(split(report)[2], key=lambda r: r.case):
        groups = by_name(rows)
        first = groups[0][0]
        along, layers = first.size["along"], first.size["layers"]
        net = "" if along in ("features", "depth") else f" of {layers}"
        unit = f", {first.dtype}" if first.dtype != "float64" else ""
        title = f"{first.epochs} epochs{net}, by {along}{unit}"
        [table] = _pivot(title, groups, _starred, pick)
        values = [f"{group[0].size['value']:,}" for group in groups]
        table.columns = {along: values} | {name: c for name, c in table.columns.items() if name}
        table.note = _reigns(map(_fastest, groups), values)
        if any(record.is_scaled for group in groups for record in group):
            table.note += "; ~ in part measured, the rest added at the rate of those epochs"
        tables.append(table)
    return tables


def _reigns(records: Iterable[Record | None], values: Sequence[str]) -> str:
    """The fastest implementations and their ranges."""
    fastest = zip((r.implementation if r else "" for r in records), values, strict=True)
    parts = []
    for name, group in groupby(fastest, key=lambda pair: pair[0]):
        found = [value for _, value in group]
        parts.append(f"{name} at {' to '.join(dict.fromkeys((found[0], found[-1])))}")
    return f"* fastest: {', '.join(parts)}"


def crossovers(report: Report) -> list[Table]:
    """For each operation the n from which the GPU wins."""
    found = crossings(report.records)
    title = "The n from which the GPU is faster than the fastest on the CPU"
    columns = {
        "operation": [row["case"] for row in found],
        "dtype": [row["dtype"] for row in found],
        "resident": [_size(row["resident"]) for row in found],
        "against": [row["resident"]["against"] for row in found],
        "end to end": [_size(row["end_to_end"]) for row in found],
        "measured": [f"{row['smallest']:,} to {row['largest']:,}" for row in found],
    }
    note = "resident: with the arrays on the GPU; end to end: with the transfers to it and back"
    return [Table(title, columns, note=note)] if found else []


def _size(crossing: dict[str, Any]) -> str:
    size, bound = crossing["size"], crossing["bound"]
    return f"{float(f'{size:.1e}'):,.0f}" if bound == "=" else f"{bound} {size:,}"


SECTIONS = {f.__name__: f for f in (operations, trainings, peers, growth, crossovers)}
