"""The notes' pictures, by matplotlib: every function returns a Figure and shows nothing.

Columns are examples, as everywhere: X is (n_features, m). Arrays may live on the device. Nothing
global is touched: no pyplot, no style. Without matplotlib the functions raise
ModuleNotFoundError; nothing else needs it.
"""

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accelnn.backend import Array, backend_of, to_host
from accelnn.files import whole_file
from accelnn.network import Network, Parameters
from accelnn.scores import labels
from accelnn.training import History

Figure = Any  # a matplotlib.figure.Figure
Axes = Any  # a matplotlib.axes.Axes
Curve = History | tuple[Sequence[int], Sequence[float]]

SUFFIXES = (".png", ".pdf", ".svg")

# Okabe and Ito's colours, told apart by colour-blind readers too (Wong, Nature Methods 8, 2011);
# without yellow, which nobody sees on white. Markers tell the classes apart even in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>"
TINTS = np.array(
    [[1 - 0.35 * (1 - int(c[i : i + 2], 16) / 255) for i in (1, 3, 5)] for c in COLOURS]
)
DASHES = ("-", "--", ":")

GRID = 300  # points along each side of a decision boundary's picture
PANELS_A_ROW = 4
MOST_UNITS = 100  # in the picture of a hidden layer: each takes 40 ms to draw


# --------------------------------------------------------------------------------------------
# curves and boundaries


def costs(curves: Mapping[str, Curve]) -> Figure:
    """The cost over the epochs, one curve a training; several get a legend.

    Parameters
    ----------
    curves : by label, a History or (epochs, costs)

    Raises ValueError where there is no curve.
    """
    figure = _figure(6.4, 4.4)
    _draw_costs(figure.subplots(), curves)
    return figure


def decision_boundary(
    net: Network, params: Parameters, X: Array, Y: Array, title: str | None = None
) -> Figure:
    """What the network says of every point of the plane, and the examples on top.

    Parameters
    ----------
    X : (2, m); Y : (1, m) of 0 and 1, one-hot (n_classes, m) or class indices (m,)

    Raises ValueError where X has not two features, or X and Y not as many examples.
    """
    return decision_boundaries(
        [("Decision boundary" if title is None else title, net, params)], X, Y
    )


def decision_boundaries(
    panels: Iterable[tuple[str, Network, Parameters]], X: Array, Y: Array
) -> Figure:
    """A decision boundary for each (title, net, params), side by side, four a row at most.

    X and Y as for `decision_boundary`, which see.
    """
    panels = list(panels)
    figure = _figure(*_panels_size(panels))
    _draw_boundaries(figure, panels, X, Y)
    return figure


def comparison(
    trainings: Mapping[str, tuple[Network, Parameters, Curve]], X: Array, Y: Array
) -> Figure:
    """Trainings side by side, such as initialisations: boundaries above, costs below.

    Parameters
    ----------
    trainings : by name, (net, params, History or (epochs, costs))
    X, Y : as for `decision_boundary`
    """
    panels = [(name, net, params) for name, (net, params, _) in trainings.items()]
    width, height = _panels_size(panels)
    figure = _figure(width, height + 3)
    above, below = figure.subfigures(2, 1, height_ratios=[height, 3])
    _draw_boundaries(above, panels, X, Y)
    _draw_costs(below.subplots(), {name: curve for name, (*_, curve) in trainings.items()})
    return figure


def _rows_and_columns(panels: Sequence[Any]) -> tuple[int, int]:
    if not panels:
        raise ValueError("expected at least one network to draw, got none")
    rows = math.ceil(len(panels) / PANELS_A_ROW)
    return rows, math.ceil(len(panels) / rows)


def _panels_size(panels: Sequence[Any]) -> tuple[float, float]:
    rows, columns = _rows_and_columns(panels)
    return (5.6, 4.8) if len(panels) == 1 else (3 * columns, 2.9 * rows + 0.4)


def _draw_costs(axes: Axes, curves: Mapping[str, Curve]) -> None:
    if not curves:
        raise ValueError("expected at least one cost curve, got none")
    finite: list[float] = []
    for number, (label, curve) in enumerate(curves.items()):
        epochs, values = (
            (curve.epochs, curve.costs) if isinstance(curve, History) else map(to_host, curve)
        )
        axes.plot(
            epochs,
            values,
            label=label,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            marker="o" if len(epochs) == 1 else None,  # one point makes no line
        )
        finite.extend(value for value in values if math.isfinite(value))
    if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axes.set_yscale("log")  # else the large costs flatten the small ones
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="epoch", ylabel="cost")
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    else:
        axes.set_title(label)


def _draw_boundaries(
    figure: Figure, panels: Sequence[tuple[str, Network, Parameters]], X: Array, Y: Array
) -> None:
    X, Y = to_host(X), labels(Y)
    if X.ndim != 2 or len(X) != 2:
        raise ValueError(
            f"expected X of shape (2, m), got {X.shape}: only two features make a plane to draw"
        )
    if X.shape[1] != Y.size or not Y.size:
        raise ValueError(f"expected labels of the {X.shape[1]} examples in X, got {Y.size}")
    low, high = X.min(axis=1), X.max(axis=1)
    margin = np.where(high > low, 0.08 * (high - low), 1)
    low, high = low - margin, high + margin
    plane = np.stack(np.meshgrid(*np.linspace(low, high, GRID).T)).reshape(2, -1)
    rows, columns = _rows_and_columns(panels)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (ax, (title, net, params)) in enumerate(zip(axes, panels, strict=False)):
        there = backend_of(params.flat)
        regions = labels(net.predict(params, there.to_device(plane, params.dtype)))
        ax.imshow(
            TINTS[regions.reshape(GRID, GRID) % len(TINTS)],
            origin="lower",
            extent=(low[0], high[0], low[1], high[1]),
            aspect="auto",
        )
        for k in np.unique(Y):
            ax.scatter(
                *X[:, k == Y],
                s=min(22, max(4, 9000 / Y.size)),
                color=COLOURS[k % len(COLOURS)],
                marker=MARKERS[k % len(MARKERS)],
                edgecolors="white",
                linewidths=0.4,
                label=f"label {k}",
            )
        ax.set_title(title)
        outer_left, outer_bottom = number % columns == 0, number + columns >= len(panels)
        ax.tick_params(labelleft=outer_left, labelbottom=outer_bottom)
        ax.set_ylabel("$x_2$" if outer_left else None)
        ax.set_xlabel("$x_1$" if outer_bottom else None)
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


# --------------------------------------------------------------------------------------------
# pictures


def pictures(
    X: Array,
    titles: Sequence[str] | None,
    image_shape: Sequence[int],
    columns: int | None = None,
    limit: int = 100,
) -> Figure:
    """Pictures in a grid; where there are more than `limit`, the first ones, and it says so.

    Parameters
    ----------
    X : (height·width·channels, m) in [0, 1], a picture a column, row by row, channels innermost
    titles : one a picture, or None
    image_shape : (height, width), or (height, width, channels) of 1 or 3 channels
    columns : pictures a row; about as many as rows where none is given
    limit : pictures at most

    Raises ValueError where shapes do not fit, there is no picture or not a title for each.
    """
    m = X.shape[1] if X.ndim == 2 else 0
    if titles is not None and len(titles) != m:
        raise ValueError(f"expected a title for each of {m} pictures, got {len(titles)}")
    images = _images(to_host(X[:, :limit]) if m > limit else to_host(X), image_shape)
    figure, _ = _draw_images(np.clip(images, 0, 1), titles, columns, cmap="gray", vmin=0, vmax=1)
    if m > limit:
        figure.suptitle(f"the first {limit} of {m}")
    return figure


def misclassified(
    X: Array,
    Y: Array,
    predictions: Array,
    classes: Sequence[str],
    image_shape: Sequence[int],
    limit: int = 25,
) -> Figure:
    """The pictures that were taken for something else, titled "predicted / true".

    Parameters
    ----------
    X, image_shape, limit : as for `pictures`
    Y : (1, m) of 0 and 1, or one-hot (n_classes, m)
    predictions : as `Network.predict` gives them
    classes : the classes' names, by label

    Raises ValueError where the shapes do not fit each other.
    """
    said, true = labels(predictions), labels(Y)
    if not said.size == true.size == X.shape[1]:
        raise ValueError(
            f"expected one prediction and one label for each of the {X.shape[1]} pictures in X, "
            f"got {said.size} predictions and {true.size} labels"
        )
    wrong = np.flatnonzero(said != true)
    if not wrong.size:
        figure = _figure(4, 1)
        figure.text(
            0.5, 0.5, f"none of {true.size} pictures is misclassified", ha="center", va="center"
        )
        return figure
    shown = wrong[:limit]
    figure = pictures(
        X[:, backend_of(X).to_device(shown)],
        [f"{classes[said[i]]} / {classes[true[i]]}" for i in shown],
        image_shape,
    )
    first = f"the first {limit} of " if wrong.size > limit else ""
    figure.suptitle(f"{first}{wrong.size} misclassified of {true.size}: predicted / true")
    return figure


def hidden_layer(params: Parameters, image_shape: Sequence[int]) -> Figure:
    """Each first-layer unit's incoming weights as a picture: red above 0, blue below.

    Weights of several channels are averaged. All units share one scale. Of many units the first
    MOST_UNITS are drawn.

    Parameters
    ----------
    image_shape : (height, width), or (height, width, channels), of the pictures trained on

    Raises ValueError where it does not fit the first layer's weights.
    """
    images = _images(to_host(params[0][0]).T, image_shape)
    units, images = len(images), images[:MOST_UNITS]
    if images.ndim == 4:
        images = images.mean(axis=3)
    largest = float(np.abs(images).max()) or 1.0
    figure, drawn = _draw_images(images, None, None, cmap="RdBu_r", vmin=-largest, vmax=largest)
    figure.colorbar(drawn, ax=figure.axes, label="weight", shrink=0.9)
    figure.set_figwidth(figure.get_figwidth() + 0.9)  # the scale's
    which = "each unit" if units <= MOST_UNITS else f"{MOST_UNITS} of {units} units"
    figure.suptitle(f"first layer: the weights into {which}")
    return figure


def _images(X: Array, image_shape: Sequence[int]) -> Array:
    """The columns of X as (m, height, width), or (m, height, width, 3)."""
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise ValueError(
            f"expected image_shape (height, width) or (height, width, 1 or 3 channels), got {shape}"
        )
    if X.ndim != 2 or len(X) != math.prod(shape):
        raise ValueError(
            f"expected {math.prod(shape)} numbers a picture for image_shape {shape}, "
            f"got an array of shape {X.shape}: pictures are columns"
        )
    if not X.shape[1]:
        raise ValueError("expected at least one picture, got none")
    return X.T.reshape(-1, *(shape[:2] if shape[2:] == (1,) else shape))


def _draw_images(
    images: Array, titles: Sequence[str] | None, columns: int | None, **how: Any
) -> tuple[Figure, Any]:
    """The Figure, and the last picture drawn, whose colour scale is that of all."""
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    side = max(0.6 if titles is None else 1.5, 3.6 / columns)  # inches
    figure = _figure(side * columns + 0.4, side * rows * (1 if titles is None else 1.2) + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for number, (ax, image) in enumerate(zip(axes, images, strict=False)):
        drawn = ax.imshow(image, **how)
        if titles is not None:
            ax.set_title(textwrap.fill(titles[number], int(side * 13)), fontsize=9)
    return figure, drawn


# --------------------------------------------------------------------------------------------
# files


def checked_path(path: str | os.PathLike[str]) -> Path:
    """`path`, where `save` can write a picture: ask before a training, not after it.

    Raises ValueError where the suffix is none of .png, .pdf and .svg, and FileNotFoundError
    where the folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"cannot write {str(path)!r}: expected a name that ends in .png, .pdf or .svg"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(path)!r}: there is no folder {path.parent}")
    return path


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a Figure as PNG, PDF or SVG, by the suffix; all of it or, where that fails, nothing.

    Raises as `checked_path` does, and OSError where the file cannot be written.
    """
    path = checked_path(path)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight")


def _figure(width: float, height: float) -> Figure:
    """An empty Figure, in inches."""
    try:
        from matplotlib import figure
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "pictures need matplotlib: pip install 'accelnn[plot]'", name="matplotlib"
        ) from None
    return figure.Figure(figsize=(width, height), layout="constrained")
