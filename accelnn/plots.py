"""The notes' pictures, by matplotlib. Every function returns a Figure, which notebooks display.

X is (n_features, m): columns are examples. Labels and predictions are class indices (m,), (1, m) of
0 and 1, or one-hot (n_classes, m). Arrays may be on the device. Neither pyplot nor a global style
is used. Without matplotlib the functions raise ModuleNotFoundError.
"""

import functools
import io
import math
import os
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accelnn.backend import Array, backend_of, to_host
from accelnn.files import check_writable, write_whole
from accelnn.install import install_command
from accelnn.network import Network, Parameters
from accelnn.scores import labels
from accelnn.training import History

Figure = Any  # a matplotlib.figure.Figure
Curve = History | tuple[Sequence[int], Sequence[float]]
Panel = tuple[str, Network, Parameters]
Trained = tuple[Network, Parameters, Curve]
Names = Sequence[str] | None

# Okabe and Ito's colours, which colour-blind readers can distinguish (Wong, Nature Methods 8,
# 2011), without yellow, which is hard to see on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOUR_NAMES = {"blue": 0, "red": 1, "green": 2}  # classes with these names get these colours
MARKERS = "os^Dv<>"  # distinguish the classes in grey
TINTS = np.array(
    [[1 - 0.35 * (1 - int(c[i : i + 2], 16) / 255) for i in (1, 3, 5)] for c in COLOURS]
)
DASHES = ("-", "--", ":", "-.")  # show curves that lie on one another

GRID = 300  # points along each side of a decision boundary
MOST_UNITS = 100  # of a hidden layer that are drawn: each takes 40 ms


def costs(curves: Mapping[str, Curve], title: str = "") -> Figure:
    """The cost over the epochs: a curve for each label, of a History or (epochs, costs).

    Raises ValueError without a curve.
    """
    figure = _figure(6.4, 4.4 + 0.25 * _legend_rows(curves, 6.4), title)
    _draw_costs(figure, curves)
    return figure


def history(history: History, title: str = "") -> Figure:
    """The recorded costs of one training, and of its validation set if there was one."""
    if not title:
        title = f"{counted(history.epochs_run, _unit([history]))}, "
        title += f"final cost {history.final_cost:.3g}"
        if history.final_validation_cost is not None:
            title += f", validation {history.final_validation_cost:.3g}"
    return costs(curves_of(history), title)


def curves_of(history: History, label: str = "") -> dict[str, Curve]:
    """The costs of a training and of its validation set if there was one, labelled for `costs`."""
    if not history.validation_costs:
        return {label: history}
    validation = f"{label}, validation" if label else "validation"
    return {label or "training": history, validation: (history.epochs, history.validation_costs)}


def decision_boundary(
    net: Network, params: Parameters, X: Array, Y: Array, title: str = "", classes: Names = None
) -> Figure:
    """The class that the network predicts at each point of the plane, and the examples.

    X, Y : (2, m), and the labels of these m examples
    classes : the classes' names, by label, for the legend

    Raises ValueError if X has not two features, or X and Y differ in their number of examples.
    """
    return decision_boundaries([(title or "Decision boundary", net, params)], X, Y, "", classes)


def decision_boundaries(
    panels: Iterable[Panel], X: Array, Y: Array, title: str = "", classes: Names = None
) -> Figure:
    """A `decision_boundary` for each (name, net, params), side by side, at most four a row."""
    panels = list(panels)
    figure = _figure(*_layout(panels)[2:], title)
    _draw_boundaries(figure, panels, X, Y, classes)
    return figure


def comparison(
    trainings: Mapping[str, Trained], X: Array, Y: Array, title: str = "", classes: Names = None
) -> Figure:
    """Trainings side by side: each `decision_boundary` above, the costs below.

    trainings : by name, (net, params, History or (epochs, costs))
    """
    panels = [(name, net, params) for name, (net, params, _) in trainings.items()]
    several = len(panels) > 1  # a single training is named above its panel
    curves = {name if several else "": curve for name, (*_, curve) in trainings.items()}
    *_, width, height = _layout(panels)
    below = 3 + 0.25 * _legend_rows(curves, width)
    figure = _figure(width, height + below, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=[height, below])
    _draw_boundaries(upper, panels, X, Y, classes)
    _draw_costs(lower, curves)
    return figure


def cost_surfaces(w: Array, b: Array, surfaces: Mapping[str, Array]) -> Figure:
    """Costs as surfaces over w and b, and below each along w at the middle b; a thick line marks
    costs that bend down, as no convex cost does.

    w, b : (n,) and (k,), evenly spaced
    surfaces : by name, the costs (n, k)
    """
    w, b, middle = to_host(w), to_host(b), len(b) // 2
    figure = _figure(4.2 * len(surfaces), 6.6)
    for number, (name, surface) in enumerate(surfaces.items(), 1):
        costs = to_host(surface)
        above = figure.add_subplot(2, len(surfaces), number, projection="3d")
        above.plot_surface(*np.meshgrid(w, b, indexing="ij"), costs, cmap="cividis", rcount=60)
        above.set(xlabel="w", ylabel="b", zlabel="cost", title=name)
        below = figure.add_subplot(2, len(surfaces), len(surfaces) + number)
        along = costs[:, middle]
        bends_down = np.zeros(len(w), bool)
        bends_down[1:-1] = np.diff(along, 2) < -1e-9 * np.abs(along).max()
        below.plot(w, along, color=COLOURS[0], label="bends up")
        part = np.where(bends_down, along, np.nan)
        below.plot(w, part, color=COLOURS[1], linewidth=4, label="bends down")
        below.set(xlabel="w", ylabel="cost", title=f"at b = {b[middle]:g}")
        below.grid(alpha=0.3)
    figure.legend(*below.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def counted(n: int, noun: str) -> str:
    """A number of things as text: 1 epoch, 1,000 epochs."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _layout(panels: Sequence[Panel]) -> tuple[int, int, float, float]:
    """Rows and columns, and the width and height in inches."""
    if not panels:
        raise ValueError("expected at least one network to draw, got none")
    if len(panels) == 1:
        return 1, 1, 5.6, 4.8
    rows = math.ceil(len(panels) / 4)
    columns = math.ceil(len(panels) / rows)
    return rows, columns, 3 * columns, 2.9 * rows + 0.4


def _legend_rows(labels: Collection[str], width: float) -> int:
    """The rows of a legend that is `width` inches wide; a single label needs no legend."""
    if len(labels) < 2:
        return 0
    columns = max(1, int(width / (0.7 + 0.08 * max(map(len, labels)))))
    return math.ceil(len(labels) / columns)


def _draw_costs(figure: Figure, curves: Mapping[str, Curve]) -> None:
    if not curves:
        raise ValueError("expected at least one cost curve, got none")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLOURS * len(DASHES), linestyle=DASHES * len(COLOURS))
    finite: list[float] = []
    for label, curve in curves.items():
        pair = curve if isinstance(curve, tuple) else (curve.epochs, curve.costs)
        epochs, values = map(to_host, pair)
        marker = "o" if len(epochs) == 1 else None  # one point makes no line
        axes.plot(epochs, values, label=label, marker=marker)
        finite.extend(value for value in values if math.isfinite(value))
    if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axes.set_yscale("log", subs=(2, 5))  # else the large costs flatten the small ones
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel=_unit(curves.values()), ylabel="cost")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    rows = _legend_rows(curves, figure.bbox.width / figure.dpi)
    if rows:  # below the axes: inside, a legend hides curves
        figure.legend(loc="outside lower center", ncols=math.ceil(len(curves) / rows))
    else:
        axes.set_title(label)


def _unit(curves: Iterable[Curve]) -> str:
    """The x axis: evaluation if every history is of `minimize`, else epoch."""
    optimizers = {curve.optimizer for curve in curves if not isinstance(curve, tuple)}
    return "evaluation" if optimizers == {None} else "epoch"


def _draw_boundaries(
    figure: Figure, panels: Sequence[Panel], X: Array, Y: Array, classes: Names
) -> None:
    X, Y = to_host(X), labels(Y)
    if X.ndim != 2 or len(X) != 2:
        raise ValueError(f"expected X of shape (2, m), two features, got {X.shape}")
    if X.shape[1] != Y.size or not Y.size:
        raise ValueError(f"expected labels of the {X.shape[1]} examples in X, got {Y.size}")
    low, high = X.min(axis=1), X.max(axis=1)
    margin = np.where(high > low, 0.08 * (high - low), 1)
    low, high = low - margin, high + margin
    extent = low[0], high[0], low[1], high[1]
    plane = np.stack(np.meshgrid(*np.linspace(low, high, GRID).T)).reshape(2, -1)
    colours = np.arange(len(COLOURS))  # by label
    if classes is not None and set(classes) <= set(COLOUR_NAMES):
        colours = np.array([COLOUR_NAMES[name] for name in classes])
    points = {"s": min(22, max(4, 9000 / Y.size)), "edgecolors": "white", "linewidths": 0.4}
    rows, columns, *_ = _layout(panels)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (ax, (title, net, params)) in enumerate(zip(axes, panels, strict=False)):
        grid = backend_of(params.flat).to_device(plane, params.dtype)
        regions = labels(net.predict(params, grid))
        tints = TINTS[colours[regions.reshape(GRID, GRID) % len(TINTS)]]
        ax.imshow(tints, origin="lower", extent=extent, aspect="auto")
        for k in np.unique(Y):
            colour, marker = COLOURS[colours[k % len(COLOURS)]], MARKERS[k % len(MARKERS)]
            name = f"label {k}" if classes is None else classes[k]
            ax.scatter(*X[:, k == Y], color=colour, marker=marker, label=name, **points)
        ax.set_title(title)
        outer_left, outer_bottom = number % columns == 0, number + columns >= len(panels)
        ax.tick_params(labelleft=outer_left, labelbottom=outer_bottom)
        ax.set_ylabel("$x_2$" if outer_left else None)
        ax.set_xlabel("$x_1$" if outer_bottom else None)
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def pictures(
    X: Array,
    titles: Names,
    image_shape: Sequence[int],
    columns: int | None = None,
    limit: int = 100,
    title: str = "",
) -> Figure:
    """Pictures in a grid: the first `limit`, and the figure says so if there are more.

    X : (height·width·channels, m) in [0, 1], a picture a column, row by row, channels innermost
    titles : one for each picture, or None
    image_shape : (height, width), or (height, width, channels) of 1 or 3 channels
    columns : pictures a row; by default about as many as rows

    Raises ValueError if shapes or the number of titles do not fit, or without a picture.
    """
    m = X.shape[1] if X.ndim == 2 else 0
    if titles is not None and len(titles) != m:
        raise ValueError(f"expected a title for each of {m} pictures, got {len(titles)}")
    images = _images(to_host(X[:, :limit]) if m > limit else to_host(X), image_shape)
    figure = _draw_images(np.clip(images, 0, 1), titles, columns, cmap="gray", vmin=0, vmax=1)
    _set_title(figure, title, f"the first {limit} of {m}" if m > limit else None)
    return figure


def misclassified(
    X: Array,
    Y: Array,
    predictions: Array,
    classes: Sequence[str],
    image_shape: Sequence[int],
    limit: int = 25,
    title: str = "",
) -> Figure:
    """The misclassified `pictures`, each titled "predicted / true".

    Y, predictions : labels of the m pictures
    classes : the classes' names, by label

    Raises ValueError if the shapes do not fit each other.
    """
    predicted, true = labels(predictions), labels(Y)
    if not predicted.size == true.size == X.shape[1]:
        got = f"{predicted.size} predictions and {true.size} labels"
        raise ValueError(f"expected as many as the {X.shape[1]} pictures in X, got {got}")
    wrong = np.flatnonzero(predicted != true)
    if not wrong.size:
        figure = _figure(4, 1, title)
        nothing = f"none of {true.size} pictures is misclassified"
        figure.text(0.5, 0.3 if title else 0.5, nothing, ha="center", va="center")
        return figure
    shown = wrong[:limit]
    names = [f"{classes[predicted[i]]} / {classes[true[i]]}" for i in shown]
    figure = pictures(X[:, backend_of(X).to_device(shown)], names, image_shape)
    first = f"the first {limit} of " if wrong.size > limit else ""
    _set_title(figure, title, f"{first}{wrong.size} misclassified of {true.size}: predicted / true")
    return figure


def hidden_layer(params: Parameters, image_shape: Sequence[int], title: str = "") -> Figure:
    """The weights into each unit of the first layer as a picture, red above 0 and blue below: the
    mean over the channels, on one scale; at most MOST_UNITS are drawn.

    image_shape : (height, width), or (height, width, channels), of the pictures trained on

    Raises ValueError if it does not fit the first layer's weights.
    """
    images = _images(to_host(params[0][0]).T, image_shape)
    units, images = len(images), images[:MOST_UNITS]
    if images.ndim == 4:
        images = images.mean(axis=3)
    largest = float(np.abs(images).max()) or 1.0
    figure = _draw_images(images, None, None, cmap="RdBu_r", vmin=-largest, vmax=largest)
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="weight", shrink=0.9)
    figure.set_figwidth(figure.get_figwidth() + 0.9)  # for the scale
    which = "each unit" if units <= MOST_UNITS else f"{MOST_UNITS} of {units} units"
    _set_title(figure, title, f"first layer: the weights into {which}")
    return figure


def _set_title(figure: Figure, *lines: str | None) -> None:
    """Write the lines above everything else, wrapped to the figure's width."""
    width = int(figure.get_figwidth() * 9)  # characters
    text = "\n".join(textwrap.fill(line, width) for line in lines if line)
    if text:
        figure.set_figheight(figure.get_figheight() + 0.2 * text.count("\n"))
        figure.suptitle(text)


def _images(X: Array, image_shape: Sequence[int]) -> Array:
    """The columns of X as (m, height, width), or (m, height, width, 3)."""
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        expected = "(height, width) or (height, width, 1 or 3 channels)"
        raise ValueError(f"expected image_shape {expected}, got {shape}")
    if X.ndim != 2 or len(X) != math.prod(shape):
        expected = f"({math.prod(shape)}, m) for image_shape {shape}"
        raise ValueError(f"expected pictures {expected}, got an array of shape {X.shape}")
    if not X.shape[1]:
        raise ValueError("expected at least one picture, got none")
    return X.T.reshape(-1, *(shape[:2] if shape[2:] == (1,) else shape))


def _draw_images(images: Array, titles: Names, columns: int | None, **colours: Any) -> Figure:
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    side = max(0.6 if titles is None else 1.5, 3.6 / columns)  # inches
    figure = _figure(side * columns + 0.4, side * rows * (1 if titles is None else 1.2) + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, image in zip(axes, images, strict=False):
        ax.imshow(image, **colours)
    for ax, title in zip(axes[: len(images)], titles or (), strict=False):
        ax.set_title(textwrap.fill(title, int(side * 13)), fontsize=9)
    return figure


def checked_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path, if a picture can be written there: call it before a training.

    Raises ValueError if it does not end in .png, .pdf or .svg, OSError if it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{path}: expected a picture's name to end in .png, .pdf or .svg")
    check_writable(path)
    return path


def save(figure: Figure, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a Figure to a `checked_path` as PNG, PDF or SVG, by its suffix: whole or not at all.
    The options are those of matplotlib's `savefig`."""
    path, contents = checked_path(path), io.BytesIO()
    options = {"dpi": 150, "bbox_inches": "tight"} | options
    figure.savefig(contents, format=path.suffix[1:].lower(), **options)
    write_whole(contents.getvalue(), path)


def _figure(width: float, height: float, title: str = "") -> Figure:
    """An empty Figure, in inches, which notebooks display."""
    try:
        from matplotlib import figure
    except ModuleNotFoundError as error:
        remedy = install_command("plot")
        raise ModuleNotFoundError(f"pictures need matplotlib: {remedy}") from error
    drawn: Any = figure.Figure(figsize=(width, height), layout="constrained")
    drawn._repr_png_ = functools.partial(_png, drawn)
    _set_title(drawn, title)
    return drawn


def _png(figure: Figure) -> bytes:
    """The PNG that IPython displays."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
