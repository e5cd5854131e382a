"""Tables of a benchmark's records: fitted to a terminal, complete and plain in a pipe."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from accelnn.bench.records import Crossing, Crossover, Record, Report, TrainingRecord
from accelnn.cli.console import PIPE_WIDTH
from accelnn.gpus import Gpu

# heading: a function of a record, and of all records of the same case and size
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
# the columns of both tables of trainings up to the times
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
    "train acc.": lambda r, _: _percent(getattr(r, "train_accuracy", None)),
    "test acc.": lambda r, _: _percent(getattr(r, "test_accuracy", None)),
}
MINI_BATCH: Columns = {
    "training": lambda r, _: r.case,
    **_OF_TRAININGS,
    "step": lambda r, _: _seconds(_step(r)),
    "products": lambda r, group: _share_of_products(r, group),
    "of limit": COMMON["of limit"],
    "× numpy": COMMON["× numpy"],
    **{heading: TRAINING[heading] for heading in ("× torch", "error", "compile", "transfer")},
    **{heading: TRAINING[heading] for heading in ("final cost", "train acc.", "test acc.")},
}
LEFT = (
    *("case", "recipe", "training", "operation", "implementation", "solver", "dtype"),
    *("picked", "against"),
)
# left out in this order until a table fits the terminal
EXPENDABLE = (
    *("spread", "error", "compile", "transfer", "threads", "rate", "dtype", "train acc."),
    *("final cost", "solver", "of limit", "test acc.", "× python", "× numpy", "products"),
    "end to end",
)
# What the names in the tables mean
CASES = {
    "dot": "a · b",
    "outer": "a bᵀ",
    "elementwise": "a * b",
    "gdot": "W x, a matrix times a vector",
    "matmul": "A B",
}
IMPLEMENTATIONS = {
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
}
HEADINGS = {
    "end to end": "with the transfers to the GPU and back",
    "spread": "fastest and slowest measurement against the median",
    "of limit": "share of the limits measured above",
    "× python": "times as fast as the Python loops",
    "× numpy": "times as fast as NumPy",
    "× torch": "times as fast as PyTorch",
    "error": "relative, against a float64 reference",
    "step": "one update of the weights",
    "products": "share of the time that the matrix products alone take",
}
PROCESSORS = {"numpy": "CPU", "cupy": "GPU"}


def show(report: Report, to: Console) -> None:
    """Print the machine and its limits, the tables, and the remarks on them."""
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
        found = ", ".join(_limits(backend, limits))
        to.print(f"Measured limits of the {PROCESSORS[backend]}: {found}")
    for dtype, seconds in report.warm_up_seconds.items():
        to.print(f"accelnn.warm_up({dtype!r}) compiled or loaded its solvers in {seconds:.1f} s")
    trainings = [r for r in report.records if isinstance(r, TrainingRecord)]
    growing = [r for r in trainings if "along" in r.size]
    trainings = [r for r in trainings if "along" not in r.size]
    operations = [r for r in report.records if not isinstance(r, TrainingRecord)]
    tables: list[tuple[str, Sequence[Record], Columns]] = [
        ("Operations on vectors of n or matrices of n × n numbers", operations, OPERATION),
        ("Trainings", [r for r in trainings if not r.batch_size], TRAINING),
        ("Trainings in mini-batches", [r for r in trainings if r.batch_size], MINI_BATCH),
    ]
    names: list[str] = []
    for title, records, columns in tables:
        shown = [record for record in records if record.status != "skipped"]
        if shown:
            to.print()
            headings = _print_table(title, shown, columns, to)
            names += [*(r.case for r in shown), *(r.implementation for r in shown), *headings]
    _print_legend(names, to)
    _show_crossovers(report.crossovers, to)
    _show_gains(trainings, to)
    _show_gains_on_gpu(trainings, to)
    for _, sizes in groupby(growing, key=lambda r: r.case):
        _show_growth(list(sizes), to)
    _show_remarks(report.records, to)


def _show_gains(trainings: Sequence[TrainingRecord], to: Console) -> None:
    """Over PyTorch; the gain of the algorithm and that of its implementation apart."""
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
    """One line for each operation: the n from which the GPU wins."""
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
    title = "The n from which the GPU is faster than the fastest on the CPU"
    to.print()
    _print_fitting(title, cells, set(), ("dtype", "against"), to)
    to.print(
        "  resident: with the arrays on the GPU; end to end: with the transfers of the inputs to "
        "the GPU and of the result back",
        soft_wrap=True,
    )


def _size(crossing: Crossing) -> str:
    """The n that was found, to two digits if it lies between two that were measured."""
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
    _print_fitting(title, cells, set(), ("auto",), to)
    reigns = [
        (name, [value for _, value in group]) for name, group in groupby(fastest, lambda f: f[0])
    ]
    said = [
        f"{name} at {values[0]:,}" + (f" to {values[-1]:,}" if len(values) > 1 else "")
        for name, values in reigns
    ]
    if said:
        rest = "; ~ in part measured, the rest added at the rate of those epochs"
        scaled = rest if any(map(_is_scaled, records)) else ""
        to.print(f"  * fastest: {', '.join(said)}{scaled}", soft_wrap=True)


def _print_table(title: str, records: Sequence[Record], columns: Columns, to: Console) -> list[str]:
    """Print a table of all columns that are not empty, or of fewer in a narrow terminal; return
    the headings that are shown."""
    groups = [list(group) for _, group in groupby(records, key=lambda r: (r.case, r.size))]
    cells = {}
    for heading, show in columns.items():
        texts = [show(record, group) for group in groups for record in group]
        if any(texts):
            cells[heading] = texts
    return _print_fitting(title, cells, set(accumulate(map(len, groups))), EXPENDABLE, to)


def _print_legend(names: Sequence[str], to: Console) -> None:
    """Print the meaning of the cases, implementations and headings that the tables show."""
    for legend in (CASES, IMPLEMENTATIONS, HEADINGS):
        known = [f"{name}: {legend[name]}" for name in legend if name in names]
        if known:
            to.print(f"\n{'; '.join(known)}")


def _print_fitting(
    title: str,
    cells: dict[str, list[str]],
    ends: set[int],
    expendables: Sequence[str],
    to: Console,
) -> list[str]:
    """Print a table without as many expendable columns as it takes to fit, and the names of
    those; return the headings that are shown."""
    left_out = []
    for expendable, padding in [("", 1), *((name, 1) for name in expendables), ("", 0)]:
        if cells.pop(expendable, None):
            left_out.append(expendable)
        table = _table(title, cells, ends, padding, to)
        wanted = to.measure(table, options=to.options.update(width=PIPE_WIDTH)).maximum
        if wanted <= to.width:
            break
    to.print(table)
    if left_out:
        names = ", ".join(left_out)
        text = f"Not shown at this width: {names}; a wider terminal or --json shows them."
        to.print(Padding(text, (0, 0, 0, 1), expand=False))
    return list(cells)


def _table(
    title: str, cells: dict[str, list[str]], ends: set[int], padding: int, to: Console
) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD if to.is_terminal else box.ASCII2,
        padding=(0, padding),
        collapse_padding=to.is_terminal,
        pad_edge=not to.is_terminal,
    )
    for heading in cells:
        table.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=True)
    for row, line in enumerate(zip(*cells.values(), strict=True), 1):
        bad = "WRONG" in line or "FAILED" in line
        table.add_row(*line, style="bold red" if bad else "", end_section=row in ends)
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
    """The precision of the products; empty if it is the dtype in the whole group."""
    own, precisions = _precision(record), {_precision(other) for other in group}
    return own if len(precisions) > 1 or own != record.dtype else ""


def _precision(record: Record) -> str:
    return getattr(record, "precision", None) or record.dtype


def _limits(backend: str, limits: Mapping[str, float]) -> list[str]:
    """Each of them, in words."""
    what = "copying memory" if backend == "cupy" else "memory"
    found = [f"{what} {_figure(limits['stream_gb_per_s'])} GB/s"]
    for name, rate in limits.items():
        if name.startswith("matmul_"):
            precision = name.removeprefix("matmul_").removesuffix("gflop_per_s").strip("_")
            product = f"matrix product in {precision}" if precision else "matrix product"
            found.append(f"{product} {_flops(rate)}")
    return found


def _solver(record: Record) -> str:
    """The solver or way of running, unless it is the implementation's name."""
    solver = getattr(record, "solver", None)
    return "" if solver in (None, record.implementation) else str(solver)


def _step(record: Record) -> float | None:
    steps = getattr(record, "steps", None)
    return record.seconds / steps if record.seconds is not None and steps else None


def _share_of_products(record: Record, group: list[Record]) -> str:
    """The time of the matrix products alone as a share of the record's."""
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
    """To three digits, without an exponent for large values."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _show_remarks(records: list[Record], to: Console) -> None:
    """Print why rows are missing or wrong, what was scaled, and what to know of the rest."""
    remarks: dict[str, dict[str, list[str]]] = {}
    scaled: dict[str, list[str]] = {}
    for record in records:
        grown = "along" in record.size and record.status in ("ok", "skipped")
        if record.reason is None or grown:  # the table of the growth shows it
            continue
        if record.status == "ok" and _is_scaled(record):
            parts = scaled.setdefault(_name(record), [])
            parts.append(f"{record.implementation} {record.reason}")
        else:
            skipped = record.status == "skipped"
            row = record.implementation if skipped else f"{_name(record)} {record.implementation}"
            remarks.setdefault(record.status, {}).setdefault(record.reason, []).append(row)
    lines = [f"{case}: {', '.join(parts)}" for case, parts in scaled.items()]
    _print_remarks("~ Scaled to the whole job from:", lines, to)
    for status, heading in (
        ("ok", "Notes:"),
        ("wrong", "WRONG, so not timed:"),
        ("failed", "FAILED:"),
        ("skipped", "Skipped:"),
    ):
        by_reason = remarks.get(status, {}).items()
        lines = [f"{', '.join(dict.fromkeys(rows))}: {reason}" for reason, rows in by_reason]
        _print_remarks(heading, lines, to, bad=status in ("wrong", "failed"))
    in_sample_space = dict.fromkeys(
        record.case
        for record in records
        if isinstance(record, TrainingRecord)
        and record.implementation.startswith("accelnn")
        and record.in_sample_space
    )
    if in_sample_space:
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
    if any(isinstance(r, TrainingRecord) and r.data == "stand-in" for r in records):
        to.print(
            "\nThe cat pictures are a drawn stand-in; to download the real ones: "
            "accelnn data download cats"
        )


def _print_remarks(heading: str, lines: Sequence[str], to: Console, bad: bool = False) -> None:
    if lines:
        to.print(f"\n{heading}", style="bold red" if bad else "")
    for line in lines:
        to.print(f"  {line}", soft_wrap=True)


def _name(record: Record) -> str:
    size = ""
    for key in ("n", "value"):
        if key in record.size:
            size = f"({record.size[key]:,})"
    return f"{record.case}{size}"


def _times(record: Record, group: list[Record], baseline: str) -> str:
    """How many times faster than the baseline of the same case and size."""
    base = next((r.seconds for r in group if r.implementation == baseline and r.seconds), None)
    if base is None or record.seconds is None:
        return ""
    return _ratio(base / record.seconds)


def _ratio(ratio: float) -> str:
    if ratio < 99.5:
        return f"{ratio:.2g}"
    return f"{float(f'{ratio:.3g}'):,.0f}"


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
    if seconds >= 3600:
        return f"{seconds / 3600:.3g} h"
    if seconds >= 1000:
        return f"{float(f'{seconds:.3g}'):,.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _text(value: object, form: str = "") -> str:
    return "" if value is None else format(value, form)
