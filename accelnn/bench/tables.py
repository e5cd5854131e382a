"""Tables of a benchmark's records, as text: for the terminal, for Markdown, for a chart."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

from accelnn.bench.records import Record, Report, TrainingRecord


@dataclass
class Table:
    """Columns of text under their headings.

    ends : numbers of the rows after which a group ends
    note : a line below the table
    """

    title: str
    columns: dict[str, list[str]]
    ends: set[int] = field(default_factory=set)
    note: str = ""

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells, row by row."""
        return list(zip(*self.columns.values(), strict=True))


# Columns of text, which are aligned to the left
LEFT = (
    *("case", "recipe", "training", "operation", "implementation", "solver", "dtype"),
    *("picked", "against", ""),
)

# --------------------------------------------------------------------------------------------
# figures


def seconds(value: float | None) -> str:
    """A time to three digits, in the unit that fits."""
    if value is None:
        return ""
    if value >= 3600:
        return f"{value / 3600:.3g} h"
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def ratio(value: float) -> str:
    """Two digits up to 99, then three."""
    return f"{value:.2g}" if value < 99.5 else f"{float(f'{value:.3g}'):,.0f}"


def percent(share: float | None) -> str:
    """To three digits."""
    return "" if share is None else f"{100 * share:.3g} %"


def figure(value: float) -> str:
    """To three digits, without an exponent for large values."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def flops(gflop_per_s: float) -> str:
    """A rate of arithmetic."""
    large = gflop_per_s >= 1e4
    return f"{figure(gflop_per_s / (1e3 if large else 1))} {'T' if large else 'G'}FLOP/s"


def time(record: Record) -> str:
    """The record's time, with ~ if only a part was measured; or that it is wrong or failed."""
    if record.seconds is None:
        return "" if record.status == "skipped" else record.status.upper()
    return ("~" if record.is_scaled else "") + seconds(record.seconds)


def _text(value: object, form: str = "") -> str:
    return "" if value is None else format(value, form)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------
# a row for each record

Group = list[Record]  # all records of a case and size

# heading: a function of a record, and of its group
Columns = dict[str, Callable[[Any, Group], str]]


def _faster(baseline: str) -> Callable[[Record, Group], str]:
    """How many times faster than the baseline a record is."""

    def show(record: Record, group: Group) -> str:
        base = _seconds_of(baseline, group)
        return ratio(base / record.seconds) if base and record.seconds else ""

    return show


def _seconds_of(implementation: str, group: Group) -> float | None:
    return next((r.seconds for r in group if r.implementation == implementation), None)


def _spread(record: Record, _: Group) -> str:
    if record.seconds is None or record.seconds_min is None or record.seconds_max is None:
        return ""
    if record.repeats == 1:
        return "once"
    below, above = (t / record.seconds - 1 for t in (record.seconds_min, record.seconds_max))
    return f"{below:+.0%} {above:+.0%}"


def _rate(record: Record, _: Group) -> str:
    if record.gb_per_s is not None:
        return f"{figure(record.gb_per_s)} GB/s"
    return "" if record.gflop_per_s is None else flops(record.gflop_per_s)


def _dtype(record: TrainingRecord, group: list[TrainingRecord]) -> str:
    """The precision of the products; empty if it is the dtype in the whole group."""
    precisions = [other.precision or other.dtype for other in (record, *group)]
    return precisions[0] if {*precisions} != {record.dtype} else ""


def _solver(record: TrainingRecord, _: Any = None) -> str:
    """The solver or way of running, unless it is the implementation's name."""
    return "" if record.solver in (None, record.implementation) else str(record.solver)


def _step(record: TrainingRecord, _: Group) -> str:
    return seconds(record.seconds / record.steps) if record.seconds and record.steps else ""


def _share_of_products(record: Record, group: Group) -> str:
    alone = _seconds_of("products", group)
    return percent(alone / record.seconds) if alone and record.seconds else ""


COLUMNS: Columns = {
    "case": lambda r, _: r.case,
    "n": lambda r, _: f"{r.size['n']:,}" if "n" in r.size else "",
    "implementation": lambda r, _: r.implementation,
    "threads": lambda r, _: _text(r.threads),
    "time": lambda r, _: time(r),
    "end to end": lambda r, _: seconds(r.end_to_end_seconds),
    "spread": _spread,
    "rate": _rate,
    "of limit": lambda r, _: percent(r.share_of_limit),
    "× python": _faster("python"),
    "× numpy": _faster("numpy"),
    "error": lambda r, _: _text(r.max_rel_error, ".0e" if r.max_rel_error else ".0f"),
    "compile": lambda r, _: seconds(r.compile_seconds) if (r.compile_seconds or 0) > 1e-3 else "",
    "transfer": lambda r, _: seconds(r.transfer_seconds),
}
_OF_TRAININGS: Columns = {
    "dtype": _dtype,
    "solver": _solver,
    "step": _step,
    "products": _share_of_products,
    "× torch": _faster("torch"),
    "final cost": lambda r, _: _text(r.final_cost, ".6f"),
    "train acc.": lambda r, _: percent(r.train_accuracy),
    "test acc.": lambda r, _: percent(r.test_accuracy),
}
_ALL = COLUMNS | _OF_TRAININGS
FULL_BATCH = (
    *("case", "implementation", "threads", "dtype", "solver", "time", "spread", "rate", "of limit"),
    *("× python", "× numpy", "× torch", "error", "compile", "transfer", "final cost"),
    *("train acc.", "test acc."),
)
MINI_BATCH = (
    *("case", "implementation", "threads", "dtype", "solver", "time", "spread", "step", "products"),
    *("of limit", "× numpy", "× torch", "error", "compile", "transfer", "final cost"),
    *("train acc.", "test acc."),
)


def details(report: Report) -> list[Table]:
    """The operations, trainings and trainings in mini-batches: all that is known of each row."""
    operations, trainings, _ = split(report.records)
    tables = [
        ("Operations on vectors of n or matrices of n × n numbers", operations, COLUMNS),
        ("Trainings", [r for r in trainings if not r.batch_size], FULL_BATCH),
        ("Trainings in mini-batches", [r for r in trainings if r.batch_size], MINI_BATCH),
    ]
    return [_details(title, rows, columns) for title, rows, columns in tables if rows]


def split(
    records: Iterable[Record],
) -> tuple[list[Record], list[TrainingRecord], list[TrainingRecord]]:
    """The operations, the trainings, and the trainings that grow; without the skipped ones."""
    operations: list[Record] = []
    trainings: list[TrainingRecord] = []
    growing: list[TrainingRecord] = []
    for record in records:
        if record.status == "skipped":
            continue
        if not isinstance(record, TrainingRecord):
            operations.append(record)
        else:
            (growing if "along" in record.size else trainings).append(record)
    return operations, trainings, growing


def _details(title: str, records: Sequence[Record], headings: Iterable[str]) -> Table:
    groups = by_name(records)
    cells = {
        heading: [_ALL[heading](record, group) for group in groups for record in group]
        for heading in headings
    }
    cells = {heading: texts for heading, texts in cells.items() if any(texts)}
    return Table(title, cells, set(accumulate(map(len, groups))))


def by_name(records: Iterable[Record]) -> list[list[Any]]:
    """The records in groups of the same case and size."""
    return [list(group) for _, group in groupby(records, key=lambda r: (r.case, r.size))]


# --------------------------------------------------------------------------------------------
# a row for each case and size, a column for each implementation


def operations(report: Report) -> list[Table]:
    """The times of the operations, and NumPy's share of the machine's limit."""
    table = _times("Operations", split(report.records)[0])
    if table is None:
        return []
    groups = by_name(split(report.records)[0])
    shares = [[r.share_of_limit for r in group if r.implementation == "numpy"] for group in groups]
    table.columns["numpy of limit"] = [percent(found[0]) if found else "" for found in shares]
    return [table]


def trainings(report: Report) -> list[Table]:
    """The times of the trainings, and the outcome that all of them have."""
    rows = split(report.records)[1]
    table = _times("Trainings", rows)
    if table is None:
        return []
    ended = [
        next((r for r in group if r.final_cost is not None), None) for group in by_name(rows)
    ]
    table.columns |= {
        "final cost": [f"{r.final_cost:.6f}" if r else "" for r in ended],
        "train / test": [
            f"{percent(r.train_accuracy)} / {percent(r.test_accuracy)}" if r else "" for r in ended
        ],
    }
    return [table]


def peers(report: Report) -> list[Table]:
    """accelnn's times, and how many times as long the others took."""
    groups = [
        group for group in by_name(split(report.records)[1]) if _seconds_of("accelnn", group)
    ]
    names = [n for n in _names(group for group in groups) if n not in ("accelnn", "products")]
    columns: dict[str, list[str]] = {"": [], "accelnn": [], "solver": []}
    columns |= {name: [] for name in names}
    for group in groups:
        ours = next(r for r in group if r.implementation == "accelnn")
        columns[""].append(ours.name)
        columns["accelnn"].append(time(ours))
        columns["solver"].append(_solver(ours))
        for name in names:
            theirs = _seconds_of(name, group)
            columns[name].append(f"{ratio(theirs / ours.seconds)} ×" if theirs else "")
    return [Table("Times as long as accelnn", columns)] if names else []


def growth(report: Report) -> list[Table]:
    """For each growing quantity the times of the solvers, the one that "auto" picked, and the
    time of the fastest as a share of auto's."""
    tables = []
    for _, rows in groupby(split(report.records)[2], key=lambda r: r.case):
        records = [record for record in rows if record.seconds]
        if not records:
            continue
        first, groups = records[0], by_name(records)
        along, layers = first.size["along"], first.size["layers"]
        net = "" if along in ("features", "depth") else f" of {layers}"
        unit = f", {first.dtype}" if first.dtype != "float64" else ""
        table = _times(f"{first.epochs} epochs{net}, by {along}{unit}", records, aside=("auto",))
        assert table is not None
        values = [f"{group[0].size['value']:,}" for group in groups]
        table.columns = {along: values} | {n: c for n, c in table.columns.items() if n}
        autos = [next((r for r in g if r.implementation == "auto"), None) for g in groups]
        bests = [_fastest(group, ("auto",)) for group in groups]
        table.columns["picked"] = [str(auto.solver) if auto else "" for auto in autos]
        table.columns["best/auto"] = [
            f"{best.seconds / auto.seconds:.2f}" if auto and best else ""
            for auto, best in zip(autos, bests, strict=True)
        ]
        table.note = _reigns([best.implementation if best else "" for best in bests], values)
        if any(record.is_scaled for record in records):
            table.note += "; ~ in part measured, the rest added at the rate of those epochs"
        tables.append(table)
    return tables


def _reigns(names: Sequence[str], values: Sequence[str]) -> str:
    """Which implementation was fastest from where to where."""
    parts = []
    for name, group in groupby(zip(names, values, strict=True), key=lambda pair: pair[0]):
        found = [value for _, value in group]
        if name:
            parts.append(f"{name} at {' to '.join(dict.fromkeys((found[0], found[-1])))}")
    return f"* fastest: {', '.join(parts)}" if parts else ""


def crossovers(report: Report) -> list[Table]:
    """For each operation the n from which the GPU wins."""
    found = report.crossovers
    columns = {
        "operation": [one.case for one in found],
        "dtype": [one.dtype for one in found],
        "resident": [str(one.resident) for one in found],
        "against": [one.resident.against for one in found],
        "end to end": [str(one.end_to_end) for one in found],
        "measured": [f"{one.smallest:,} to {one.largest:,}" for one in found],
    }
    note = (
        "resident: with the arrays on the GPU; end to end: with the transfers of the inputs to "
        "the GPU and of the result back"
    )
    title = "The n from which the GPU is faster than the fastest on the CPU"
    return [Table(title, columns, note=note)] if found else []


# By name, a function of a report that returns tables
SECTIONS: dict[str, Callable[[Report], list[Table]]] = {
    "operations": operations,
    "trainings": trainings,
    "peers": peers,
    "growth": growth,
    "crossovers": crossovers,
}


def _times(title: str, records: Sequence[Record], aside: Sequence[str] = ()) -> Table | None:
    """The times, the fastest of each row with a star; None if there are none.

    aside : implementations that get no star, in the last columns
    """
    groups = [group for group in by_name(records) if any(r.seconds for r in group)]
    if not groups:
        return None
    names = [name for name in _names(groups) if name not in aside]
    columns: dict[str, list[str]] = {"": [group[0].name for group in groups]}
    columns |= {name: [] for name in (*names, *aside)}
    for group in groups:
        found, best = {r.implementation: r for r in group}, _fastest(group, (*aside, "products"))
        for name in (*names, *aside):
            star = "*" if best is not None and name == best.implementation else ""
            columns[name].append(star + time(found[name]) if name in found else "")
    return Table(title, columns)


def _names(groups: Iterable[Sequence[Record]]) -> list[str]:
    """The implementations that were timed, in the order of the records."""
    return list(dict.fromkeys(r.implementation for group in groups for r in group if r.seconds))


def _fastest(group: Sequence[Record], aside: Sequence[str]) -> Any:
    timed = [r for r in group if r.seconds and r.implementation not in aside]
    return min(timed, key=lambda r: r.seconds or 0.0, default=None)
