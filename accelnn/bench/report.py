"""Tables of a benchmark's records, for people: rich in a terminal, plain text in a pipe."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

from accelnn.bench.records import Crossing, Crossover, Record, Report, TrainingRecord
from accelnn.gpus import Gpu

# heading: what it shows of a record, given all records of the same case and size
Columns = dict[str, Callable[[Record, list[Record]], str]]

COMMON: Columns = {
    "implementation": lambda r, _: r.implementation,
    "threads": lambda r, _: _text(r.threads),
    "time": lambda r, _: _time(r),
    "end to end": lambda r, _: _seconds(r.end_to_end_seconds),
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
# whatever stands before the columns that tell of the outcome
_OF_TRAININGS: Columns = {
    **{heading: COMMON[heading] for heading in ("implementation", "threads")},
    "dtype": lambda r, group: _dtype(r, group),
    "solver": lambda r, _: _solver(r),
    **{heading: COMMON[heading] for heading in ("time", "spread")},
}
TRAINING: Columns = {
    "recipe": lambda r, _: r.case,
    **_OF_TRAININGS,
    **{heading: COMMON[heading] for heading in ("rate", "of limit", "× python", "× numpy")},
    "× torch": lambda r, group: _times(r, group, "torch"),
    **{heading: COMMON[heading] for heading in ("error", "compile", "transfer")},
    "final cost": lambda r, _: _text(getattr(r, "final_cost", None), ".6f"),
    "train": lambda r, _: _percent(getattr(r, "train_accuracy", None)),
    "test": lambda r, _: _percent(getattr(r, "test_accuracy", None)),
}
MINI_BATCH: Columns = {
    "training": lambda r, _: r.case,
    **_OF_TRAININGS,
    "step": lambda r, _: _seconds(_step(r)),
    "products": lambda r, group: _share_of_products(r, group),
    "of limit": COMMON["of limit"],
    "× numpy": COMMON["× numpy"],
    **{heading: TRAINING[heading] for heading in ("× torch", "error", "compile", "transfer")},
    **{heading: TRAINING[heading] for heading in ("final cost", "train", "test")},
}
LEFT = (
    *("case", "recipe", "training", "operation", "implementation", "solver", "dtype"),
    *("picked", "against"),
)
# left out, one after the other, until the table fits the terminal
EXPENDABLE = (
    *("spread", "error", "compile", "transfer", "threads", "rate", "of limit", "dtype"),
    *("solver", "× python", "train", "final cost", "× numpy", "test", "products", "end to end"),
)
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
    )
    if machine["gpu"]:
        to.print(str(Gpu(**machine["gpu"])))
    to.print(", ".join(f"{name} {version}" for name, version in report.versions.items()))
    for backend, limits in report.limits.items():
        to.print(f"Limits measured on {backend}: {', '.join(_limits(backend, limits))}")
    trainings = [r for r in report.records if isinstance(r, TrainingRecord)]
    growing = [r for r in trainings if "along" in r.size]
    trainings = [r for r in trainings if "along" not in r.size]
    operations = [r for r in report.records if not isinstance(r, TrainingRecord)]
    tables: list[tuple[str, Sequence[Record], Columns]] = [
        ("Operations", operations, OPERATION),
        ("Trainings", [r for r in trainings if not r.batch_size], TRAINING),
        ("Mini-batches", [r for r in trainings if r.batch_size], MINI_BATCH),
    ]
    for title, records, columns in tables:
        shown = [record for record in records if record.status != "skipped"]
        if shown:
            to.print()
            to.print(_table(title, shown, columns, to))
    _show_crossovers(report.crossovers, to)
    _show_gains(trainings, to)
    _show_gains_on_gpu(trainings, to)
    for _, sizes in groupby(growing, key=lambda r: r.case):
        _show_growth(list(sizes), to)
    _show_remarks(report.records, to)


def _show_gains(trainings: Sequence[TrainingRecord], to: Console) -> None:
    """Over PyTorch, what the algorithm gains and what its implementation does, apart."""
    lines = []
    for case, records in groupby(trainings, key=lambda r: r.case):
        seconds = {r.implementation: r.seconds for r in records if r.seconds}
        ours, torch = seconds.get("accelnn"), seconds.get("torch")
        gram = seconds.get("torch-gram")
        if not ours or not torch:
            continue
        line = f"  {case}: {_ratio(torch / ours)} times as fast as PyTorch"
        if gram:
            line += (
                f" = {_ratio(torch / gram)} by the algorithm (PyTorch given ours: torch-gram)"
                f" × {_ratio(gram / ours)} by its implementation"
            )
        lines.append(line)
    if lines:
        to.print("\nGains of accelnn:")
    for line in lines:
        to.print(line, soft_wrap=True)


def _show_gains_on_gpu(trainings: Sequence[TrainingRecord], to: Console) -> None:
    """Over each package that trained on the same GPU."""
    lines = []
    for case, records in groupby(trainings, key=lambda r: r.case):
        seconds = {(r.backend, r.implementation): r.seconds for r in records if r.seconds}
        ours = [(s, name) for (backend, name), s in seconds.items() if backend == "cupy"]
        theirs = [(s, name) for (backend, name), s in seconds.items() if backend == "cuda"]
        if ours and theirs:
            least, fastest = min(ours)
            gains = [f"{_ratio(s / least)} times as fast as {name}" for s, name in theirs]
            lines.append(f"  {case}: {fastest} is {', '.join(gains)}")
    if lines:
        to.print("\nGains of accelnn on the GPU:")
    for line in lines:
        to.print(line, soft_wrap=True)


def _show_crossovers(crossovers: Sequence[Crossover], to: Console) -> None:
    """One line for each operation: from which n on the GPU wins."""
    if not crossovers:
        return
    cells = {
        "operation": [found.case for found in crossovers],
        "dtype": [found.dtype for found in crossovers],
        "resident": [_size(found.resident) for found in crossovers],
        "against": [found.resident.against for found in crossovers],
        "end to end": [_size(found.end_to_end) for found in crossovers],
        "measured": [f"{found.smallest:,} to {found.largest:,}" for found in crossovers],
    }
    title = "From which n on the GPU wins, against the fastest on the CPU"
    to.print()
    to.print(_fitting(title, cells, set(), ("dtype", "against"), to))
    to.print(
        "  resident: the arrays lie on the GPU; end to end: they come from the host, and the "
        "result goes back",
        soft_wrap=True,
    )


def _size(crossing: Crossing) -> str:
    """The n that was found, to two digits where it lies between those that were measured."""
    if crossing.bound != "=":
        return f"{crossing.bound} {crossing.size:,}"
    return f"{float(f'{crossing.size:.1e}'):,.0f}"


def _show_growth(records: Sequence[TrainingRecord], to: Console) -> None:
    """One line for each size: the seconds of every solver, the one that "auto" picked, and how
    the pick compares with the fastest."""
    records = [record for record in records if record.seconds is not None]
    if not records:
        return
    first = records[0]
    along, layers = first.size["along"], first.size["layers"]
    net = "" if along in ("features", "depth") else f" of {layers}"
    unit = f", {first.dtype}" if first.dtype != "float64" else ""
    title = f"{first.epochs} epochs{net}, by {along}{unit}"
    solvers = [name for name in dict.fromkeys(r.implementation for r in records) if name != "auto"]
    cells: dict[str, list[str]] = {
        heading: [] for heading in (along, *solvers, "auto", "picked", "best/auto")
    }
    fastest: list[tuple[str, int]] = []
    for value, group in groupby(records, key=lambda r: r.size["value"]):
        by_name = {record.implementation: record for record in group}
        seconds = {name: by_name[name].seconds or 0.0 for name in solvers if name in by_name}
        best = min(seconds, key=lambda name: seconds[name], default="")
        if best:
            fastest.append((best, value))
        cells[along].append(f"{value:,}")
        for name in (*solvers, "auto"):
            text = _time(by_name[name]) if name in by_name else ""
            cells[name].append(f"*{text}" if name == best else text)
        auto = by_name.get("auto")
        cells["picked"].append((auto.solver or "") if auto else "")
        ratio = seconds[best] / auto.seconds if auto and auto.seconds and best else None
        cells["best/auto"].append(_text(ratio, ".2f"))
    to.print()
    to.print(_fitting(title, cells, set(), ("auto",), to))
    reigns = [
        (name, [value for _, value in group]) for name, group in groupby(fastest, lambda f: f[0])
    ]
    said = [
        f"{name} at {values[0]:,}" + (f" to {values[-1]:,}" if len(values) > 1 else "")
        for name, values in reigns
    ]
    if said:
        rest = "; ~ the rest is added at the rate of the epochs that were run"
        scaled = rest if any(map(_is_scaled, records)) else ""
        to.print(f"  * fastest: {', '.join(said)}{scaled}", soft_wrap=True)


def _table(title: str, records: Sequence[Record], columns: Columns, to: Console) -> Table:
    """All columns in which something stands; fewer where the terminal is too narrow."""
    groups = [list(group) for _, group in groupby(records, key=lambda r: (r.case, r.size))]
    cells = {}
    for heading, show in columns.items():
        texts = [show(record, group) for group in groups for record in group]
        if any(texts):
            cells[heading] = texts
    return _fitting(title, cells, set(accumulate(map(len, groups))), EXPENDABLE, to)


def _fitting(
    title: str,
    cells: dict[str, list[str]],
    ends: set[int],
    expendables: Sequence[str],
    to: Console,
) -> Table:
    """A table of the columns `cells`, without as many expendable ones as it takes to fit."""
    for expendable, padding in [("", 1), *((name, 1) for name in expendables), ("", 0)]:
        cells.pop(expendable, None)
        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD if to.is_terminal else box.ASCII2,
            padding=(0, padding),
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
    return ("~" if _is_scaled(record) else "") + _seconds(record.seconds)


def _is_scaled(record: Record) -> bool:
    """Whether only a part was measured."""
    if not isinstance(record, TrainingRecord):
        return record.reason is not None
    measured = record.epochs_measured
    return measured is not None and record.epochs is not None and measured < record.epochs


def _dtype(record: Record, group: list[Record]) -> str:
    """And the precision of the products, where that is another; nothing where all are alike."""
    told = {_precision(other) for other in group}
    own = _precision(record)
    return own if len(told) > 1 or own != record.dtype else ""


def _precision(record: Record) -> str:
    return getattr(record, "precision", None) or record.dtype


def _limits(backend: str, limits: Mapping[str, float]) -> list[str]:
    """Each of them, in words."""
    what = "copying memory" if backend == "cupy" else "memory"
    told = [f"{what} {_figure(limits['stream_gb_per_s'])} GB/s"]
    for name, rate in limits.items():
        if name.startswith("matmul_"):
            precision = name.removeprefix("matmul_").removesuffix("gflop_per_s").strip("_")
            product = f"matrix product in {precision}" if precision else "matrix product"
            told.append(f"{product} {_flops(rate)}")
    return told


def _solver(record: Record) -> str:
    """What ran, where that is not said already."""
    solver = getattr(record, "solver", None)
    return "" if solver in (None, record.implementation) else str(solver)


def _step(record: Record) -> float | None:
    steps = getattr(record, "steps", None)
    return record.seconds / steps if record.seconds is not None and steps else None


def _share_of_products(record: Record, group: list[Record]) -> str:
    """How much of the time the matrix products alone would take."""
    alone = next((r.seconds for r in group if r.implementation == "products"), None)
    if alone is None or record.seconds is None:
        return ""
    return _percent(alone / record.seconds)


def _rate(record: Record) -> str:
    if record.gb_per_s is not None:
        return f"{_figure(record.gb_per_s)} GB/s"
    return "" if record.gflop_per_s is None else _flops(record.gflop_per_s)


def _flops(gflop_per_s: float) -> str:
    if gflop_per_s >= 1e4:
        return f"{_figure(gflop_per_s / 1e3)} TFLOP/s"
    return f"{_figure(gflop_per_s)} GFLOP/s"


def _figure(value: float) -> str:
    """To three digits, and never with an exponent where it is large."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _show_remarks(records: list[Record], to: Console) -> None:
    """What the tables do not show: why rows are missing or wrong, what was scaled, what drifts."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for record in records:
        grown = "along" in record.size and record.status in ("ok", "skipped")
        if record.reason is not None and not grown:  # a growth's table says it all
            who = record.implementation if record.status == "skipped" else _name(record)
            status = "scaled" if record.status == "ok" and _is_scaled(record) else record.status
            by_reason.setdefault((status, record.reason), []).append(who)
    for status, heading in (
        ("scaled", "~ Scaled to the whole job; measured were:"),
        ("ok", "To be known besides:"),
        ("wrong", "WRONG, so not timed:"),
        ("failed", "FAILED:"),
        ("skipped", "Skipped:"),
    ):
        remarks = [(reason, who) for (s, reason), who in by_reason.items() if s == status]
        if remarks:
            to.print(f"\n{heading}", style="bold red" if status in ("wrong", "failed") else "")
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
    size = ""
    for key in ("n", "value"):
        if key in record.size:
            size = f"({record.size[key]:,})"
    return f"{record.case}{size} {record.implementation}"


def _times(record: Record, group: list[Record], baseline: str) -> str:
    """How many times faster than the baseline of the same case and size."""
    base = next((r.seconds for r in group if r.implementation == baseline and r.seconds), None)
    if base is None or record.seconds is None:
        return ""
    return _ratio(base / record.seconds)


def _ratio(ratio: float) -> str:
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
