"""A bar chart of one training: the time that each implementation takes."""

from pathlib import Path

from accelnn.bench.records import Report, TrainingRecord
from accelnn.bench.tables import ratio, seconds, split, time
from accelnn.install import install_command
from accelnn.plots import checked_path, save

LABELS = {
    "python": "Python loops",
    "numba": "loops, compiled by Numba",
    "notes": "the notes' NumPy",
    "numpy": "NumPy, without needless copies",
    "torch": "PyTorch",
    "torch-compile": "PyTorch, compiled",
    "torch-gram": "PyTorch in sample space",
    "jax": "JAX",
    "sklearn": "scikit-learn",
}
TICKS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 3600.0, 36000.0)
OURS, OTHERS, TEXT = "#e8590c", "#748ffc", "#808080"  # readable on white and on black


def draw(report: Report, path: Path, case: str | None = None) -> None:
    """Write a chart of the training `case` (cat-2layer, or the first one) to a transparent .svg or
    .png. Raises ValueError if the report lacks the training, or matplotlib is not installed, and
    OSError if it cannot be written."""
    path = checked_path(path)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ValueError(f"a chart needs matplotlib: {install_command('plot')}") from None
    records = [r for r in split(report)[1] if r.seconds and r.implementation != "products"]
    cases = list(dict.fromkeys(record.case for record in records))
    case = case or ("cat-2layer" if "cat-2layer" in cases else (cases or [""])[0])
    rows = [record for record in records if record.case == case]
    if not rows:
        expected = f"expected one of {', '.join(cases)}" if cases else "there are no trainings"
        raise ValueError(f"no training {case or 'at all'} was timed: {expected}")
    rows.sort(key=lambda record: record.seconds or 0.0)
    figure = Figure((8, 1 + 0.42 * len(rows)), layout="constrained")
    first = rows[0]
    job = (
        f"{first.case}: {list(first.size['layers'])}, {first.epochs or 0:,} epochs in {first.dtype}"
    )
    title = f"{job} on {first.device}, {first.threads} threads (log scale)"
    figure.suptitle(title, x=0.01, ha="left", color=TEXT, fontsize="medium")
    axes = figure.subplots()
    times = [record.seconds or 0.0 for record in rows]
    colours = [OURS if r.implementation.startswith("accelnn") else OTHERS for r in rows]
    bars = axes.barh([_label(record) for record in rows], times, color=colours)
    axes.bar_label(bars, [_figures(r, rows) for r in rows], padding=4, color=TEXT)
    axes.set_xscale("log")
    least, most = min(times) / 3, max(times)
    axes.set_xlim(least, most * (most / least) ** 0.4)  # with room for the figures
    axes.set_xticks([tick for tick in TICKS if least < tick <= 10 * most])
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.minorticks_off()
    axes.tick_params(colors=TEXT, length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    save(figure, path, bbox_inches=None, transparent=True)


def _label(record: TrainingRecord) -> str:
    name = record.implementation.removesuffix("-float32")
    label = LABELS.get(name, name)
    return f"{label}, float32" if name != record.implementation else label


def _figures(record: TrainingRecord, rows: list[TrainingRecord]) -> str:
    """The time, also as a multiple of accelnn's."""
    ours = next((r.seconds for r in rows if r.implementation == "accelnn"), None)
    if ours is None or record.seconds is None or record.implementation == "accelnn":
        return time(record)
    return f"{time(record)}  ({ratio(record.seconds / ours)} ×)"
