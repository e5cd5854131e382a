"""Every picture: what it shows is what it was given, and nothing global is touched."""

import io
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import accelnn
from accelnn import Network, datasets, plots
from accelnn.backend import to_device

pytest.importorskip("matplotlib")


def trained(layers=(2, 4, 1), epochs=20, data=None, **net):
    data = data or datasets.circles(m=60, dtype="float64")
    net = Network(layers, hidden="tanh", **net)
    given = net, net.init(dtype="float64"), data.X_train, data.Y_train
    params, history = accelnn.fit(*given, epochs=epochs, learning_rate=0.1, record_every=5)
    return data, net, params, history


def untrained():
    net = Network([2, 1])
    return net, net.init()


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def suptitle(figure):
    """The title above all, without its line breaks."""
    return " ".join(figure.get_suptitle().split())


def shown(axes):
    """The picture on these axes, as numbers."""
    return axes.images[0].get_array()


def rendered(figure):
    figure.savefig(io.BytesIO(), format="png")  # raises or warns if something cannot be drawn
    return figure


def history(costs):
    epochs = list(range(0, 10 * len(costs), 10))
    return SimpleNamespace(
        costs=costs,
        epochs=epochs,
        epochs_run=10 * len(costs),
        optimizer="sgd",
        final_cost=costs[-1],
        validation_costs=[],
        final_validation_cost=None,
    )


def drawn(figure):
    """All that was drawn, as numbers: lines, points and pictures."""
    for axes in figure.axes:
        yield from (line.get_xydata() for line in axes.lines)
        yield from (points.get_offsets() for points in axes.collections if axes.name != "3d")
        yield from (image.get_array() for image in axes.images)


def figures(array, random):
    """Every figure, of random arrays that `array` puts on a backend."""
    X, Y, guesses = random.random((4, 6)), np.arange(6) % 2, random.random((2, 6))
    plane, images = array(X[:2]), array(X)
    net = Network([2, 3, 1])
    params = net.init(dtype="float64")
    w, b = np.linspace(-2, 2, 9), np.linspace(-1, 1, 5)
    surface = array(w[:, None] ** 2 + b**2)
    curve = [0, 100], array(np.array([0.7, 0.5]))
    yield "costs", plots.costs({"a": curve, "b": history([0.7, 0.6])})
    yield "boundary", plots.decision_boundary(net, params, plane, array(Y))
    yield "comparison", plots.comparison({"a": (net, params, curve)}, plane, array(Y))
    yield "pictures", plots.pictures(images, None, (2, 2))
    yield "misclassified", plots.misclassified(images, array(Y), array(guesses), "ab", (2, 2))
    yield "hidden", plots.hidden_layer(Network([4, 2, 1]).init(dtype="float64"), (2, 2))
    yield "surfaces", plots.cost_surfaces(array(w), array(b), {"bowl": surface})


@pytest.mark.usefixtures("there")
def test_arrays_of_either_backend_give_the_same_figures():
    on_device = list(figures(to_device, np.random.default_rng(1)))
    with accelnn.use("numpy"):
        on_host = list(figures(np.asarray, np.random.default_rng(1)))
    for (name, figure), (_, expected) in zip(on_device, on_host, strict=True):
        numbers, others = list(drawn(rendered(figure))), list(drawn(expected))
        assert len(numbers) == len(others) > 0, name
        for ours, host in zip(numbers, others, strict=True):
            np.testing.assert_allclose(ours, host, rtol=1e-12, err_msg=name)


# --------------------------------------------------------------------------------------------
# costs


def test_a_cost_curve_is_the_history():
    _, _, _, history = trained()
    [axes] = rendered(plots.costs({"circles": history})).axes
    [line] = axes.lines
    assert line.get_xdata().tolist() == [0, 5, 10, 15]
    assert line.get_ydata().tolist() == history.costs
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "cost")
    assert axes.get_title() == "circles"
    assert axes.get_legend() is None


def test_several_cost_curves_get_a_legend():
    figure = plots.costs({"0.01": history([0.7, 0.3]), "0.001": ([0, 100], [0.7, 0.5])})
    [axes] = rendered(figure).axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0.01", "0.001"]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.7, 0.3], [0.7, 0.5]]
    assert axes.get_yscale() == "linear"


def test_a_legend_hides_no_curve_and_is_whole():
    X, Y = np.ones((2, 3)), np.zeros(3)
    for n, label in ((1, "{}"), (4, "{}"), (7, "{} hidden units, learning rate 0.0075")):
        curves = {label.format(k): history([0.7, 0.7 - k / 10, 0.3]) for k in range(n)}
        trainings = {name: (*untrained(), curve) for name, curve in curves.items()}
        for figure in (plots.costs(curves), plots.comparison(trainings, X, Y)):
            rendered(figure)
            [*_, axes] = figure.axes
            below = figure.subfigs[-1] if figure.subfigs else figure
            assert len(below.legends) == (n > 1)
            for legend in below.legends:
                box = legend.get_window_extent()
                assert not box.overlaps(axes.get_tightbbox()), (n, label)
                assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, (n, label)
            assert axes.get_window_extent().height > 150  # of 100 pixels an inch


def test_a_history_is_drawn_whole():
    one = history([0.7, 0.4, 0.3])
    figure = plots.history(one)
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [one.costs]
    assert suptitle(figure) == "30 epochs, final cost 0.3"
    one.validation_costs, one.final_validation_cost = [0.7, 0.5, 0.45], 0.45
    figure = rendered(plots.history(one))
    lines = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert lines == [one.costs, one.validation_costs]
    assert suptitle(figure) == "30 epochs, final cost 0.3, validation 0.45"
    one.epochs_run = 1
    assert suptitle(plots.history(one)).startswith("1 epoch, final")
    assert suptitle(plots.history(one, "mine")) == "mine"


def test_minimize_counts_evaluations():
    data, net, params, sgd = trained()
    _, found = accelnn.minimize(net, params, data.X_train, data.Y_train, evaluations=5)
    figure = plots.history(found)
    assert figure.axes[0].get_xlabel() == "evaluation"
    assert suptitle(figure).startswith("5 evaluations, final cost 0.")
    assert plots.costs({"TNC": found, "sgd": sgd}).axes[0].get_xlabel() == "epoch"


def test_epochs_are_marked_by_whole_numbers():
    for n in (1, 2, 3, 30):
        curve = list(range(n)), [0.7 - k / 100 for k in range(n)]
        [axes] = rendered(plots.costs({"a": curve})).axes
        assert all(tick == round(tick) for tick in axes.get_xticks()), n


def test_many_curves_all_look_different():
    [axes] = plots.costs({str(k): history([0.7, 0.3]) for k in range(21)}).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 21
    assert len({line.get_linestyle() for line in axes.lines[:4]}) == 4  # can lie on one another


def test_costs_far_apart_get_a_logarithmic_axis_with_plain_numbers():
    [axes] = rendered(plots.costs({"a": history([300, 1.0]), "b": history([0.7, 0.6])})).axes
    assert axes.get_yscale() == "log"
    texts = [text.get_text() for text in axes.get_yticklabels(which="both")]
    assert {"1", "2", "5", "10", "100"} <= set(texts)


def test_odd_costs_are_drawn_too():
    for costs in ([0.7], [0.7, np.inf, np.nan], [np.nan], [0.5, 0.0], [50.0, -1]):
        [axes] = rendered(plots.costs({"odd": history(costs)})).axes
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), costs)
        assert (axes.lines[0].get_marker() == "o") == (len(costs) == 1)  # one point is no line


# --------------------------------------------------------------------------------------------
# boundaries


def test_regions_are_what_the_network_predicts():
    data, net, params, _ = trained(epochs=200)
    [axes] = rendered(plots.decision_boundary(net, params, data.X_train, data.Y_train)).axes
    left, right, bottom, top = axes.images[0].get_extent()
    plane = np.meshgrid(np.linspace(left, right, plots.GRID), np.linspace(bottom, top, plots.GRID))
    plane = np.stack(plane).reshape(2, -1)
    regions = net.predict(params, plane).reshape(plots.GRID, plots.GRID)
    assert 0 < regions.mean() < 1
    np.testing.assert_array_equal(shown(axes), plots.TINTS[regions])
    assert axes.images[0].origin == "lower"
    assert (axes.get_title(), axes.get_xlabel()) == ("Decision boundary", "$x_1$")


def test_examples_are_drawn_by_label_inside_the_margin():
    data, net, params, _ = trained()
    figure = rendered(plots.decision_boundary(net, params, data.X_train, data.Y_train, "mine"))
    [axes] = figure.axes
    X, Y = data.X_train, data.Y_train[0]
    for k, points in enumerate(axes.collections):
        np.testing.assert_array_equal(points.get_offsets().T, X[:, k == Y])
    left, right, bottom, top = axes.images[0].get_extent()
    assert left < X[0].min() < X[0].max() < right
    assert bottom < X[1].min() < X[1].max() < top
    assert axes.get_title() == "mine"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["label 0", "label 1"]


def test_the_legend_names_the_classes_and_a_single_training_is_named_once():
    data, net, params, history = trained()
    given, classes = (data.X_train, data.Y_train), ("in", "out")
    single = plots.comparison({"4 units": (net, params, history)}, *given, classes=classes)
    assert titles(single) == ["4 units"]
    for figure in (
        plots.decision_boundary(net, params, *given, classes=classes),
        single.subfigs[0],
    ):
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["in", "out"]


def test_red_is_red_and_blue_is_blue():
    data, net, params, _ = trained(epochs=200)
    figure = plots.decision_boundary(
        net, params, data.X_train, data.Y_train, classes=("red", "blue")
    )
    [axes] = figure.axes
    red, blue = (points.get_facecolor()[0, :3] for points in axes.collections)
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    tints = {tuple(tint) for tint in shown(axes).reshape(-1, 3)}
    assert tints == {tuple(plots.TINTS[0]), tuple(plots.TINTS[1])}


def test_several_classes_have_a_region_each():
    data = datasets.blobs(m=90, classes=3, dtype="float64")
    data, net, params, _ = trained((2, 5, 3), 300, data, output="softmax")
    [axes] = rendered(plots.decision_boundary(net, params, data.X_train, data.Y_train)).axes
    assert len(np.unique(shown(axes).reshape(-1, 3), axis=0)) == 3
    assert len(axes.collections) == 3


def test_panels_wrap_at_four_a_row():
    data, net, params, _ = trained()
    for n, rows, columns in ((1, 1, 1), (4, 1, 4), (5, 2, 3), (7, 2, 4)):
        names = [f"{k} units" for k in range(n)]
        panels = ((name, net, params) for name in names)
        figure = plots.decision_boundaries(panels, data.X_train, data.Y_train)
        assert titles(figure) == names
        assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)
        # only the outer panels are labelled
        assert sum(axes.get_xlabel() == "$x_1$" for axes in figure.axes) == columns
        assert sum(axes.get_ylabel() == "$x_2$" for axes in figure.axes) == rows


def test_comparison_has_boundaries_above_and_costs_below():
    data, net, params, history = trained()
    trainings = {"none": (net, params, history), "L2": (net, params, ([0, 5], [0.6, 0.4]))}
    figure = rendered(plots.comparison(trainings, data.X_train, data.Y_train))
    *panels, costs = figure.axes
    assert titles(figure) == ["none", "L2"]
    assert [line.get_ydata().tolist() for line in costs.lines] == [history.costs, [0.6, 0.4]]
    bottom = costs.get_window_extent().y1
    assert all(axes.get_window_extent().y0 > bottom for axes in panels)


def test_a_constant_feature_is_drawn_with_a_margin():
    net = Network([2, 1])
    figure = plots.decision_boundary(net, net.init(), np.zeros((2, 3)), np.zeros((1, 3)))
    assert list(rendered(figure).axes[0].images[0].get_extent()) == [-1, 1, -1, 1]


def test_data_that_makes_no_plane_is_refused():
    for X, Y, message in (
        ((3, 5), (1, 5), r"X of shape \(2, m\), two features, got \(3, 5\)"),
        ((2, 5), (1, 4), "labels of the 5 examples in X, got 4"),
        ((2, 0), (1, 0), "labels of the 0 examples"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.decision_boundary(*untrained(), np.ones(X), np.ones(Y))


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least one cost curve"):
        plots.costs({})
    with pytest.raises(ValueError, match="at least one network"):
        plots.decision_boundaries([], np.ones((2, 5)), np.ones((1, 5)))
    with pytest.raises(ValueError, match="at least one network"):
        plots.comparison({}, np.ones((2, 5)), np.ones((1, 5)))


# --------------------------------------------------------------------------------------------
# pictures


def test_pictures_are_the_columns(random):
    for shape in ((4, 5), (4, 5, 1), (4, 5, 3)):
        images = random.random((3, *shape))
        X = images.reshape(3, -1).T
        figure = rendered(plots.pictures(X, ["a", "b", "c"], shape, columns=3))
        assert titles(figure) == ["a", "b", "c"]
        for axes, image in zip(figure.axes, images, strict=True):
            np.testing.assert_array_equal(shown(axes), image.squeeze())
            assert not axes.axison
    figure = plots.pictures(random.random((4, 100)), None, (2, 2), columns=20)
    assert figure.axes[0].get_gridspec().get_geometry() == (5, 20)
    assert (titles(figure), suptitle(figure)) == ([], "")


def test_one_picture_and_its_long_title_fit():
    title = "picture 176: non-cat, predicted cat with a probability of 0.7342"
    figure = rendered(plots.pictures(np.ones((12, 1)), [title], (2, 2, 3)))
    [axes] = figure.axes
    extent = axes.title.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.x1
    assert axes.get_title().replace("\n", " ") == title


def test_the_first_of_too_many_pictures_are_drawn_and_it_says_so():
    figure = plots.pictures(np.ones((4, 9)), [str(k) for k in range(9)], (2, 2), limit=5)
    assert titles(figure) == ["0", "1", "2", "3", "4"]
    assert suptitle(figure) == "the first 5 of 9"


def test_values_beyond_the_range_are_clipped():
    figure = plots.pictures(np.array([[-1.0], [0.5], [2.0]]), None, (1, 1, 3))
    np.testing.assert_array_equal(shown(figure.axes[0]), [[[0, 0.5, 1]]])


def test_arrays_that_are_no_pictures_are_refused():
    for X, names, shape, message in (
        ((12, 2), None, (2, 2), r"\(4, m\) for image_shape \(2, 2\), got.*\(12, 2\)"),
        (12, None, (2, 2, 3), r"got an array of shape \(12,\)"),
        ((8, 1), None, (2, 2, 2), "1 or 3 channels"),
        ((4, 1), None, (4,), r"\(height, width\).*got \(4,\)"),
        ((4, 0), None, (2, 2), "at least one picture"),
        ((4, 2), ["a"], (2, 2), "a title for each of 2 pictures, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.pictures(np.ones(X), names, shape)


def test_misclassified_pictures_are_titled_predicted_and_true_up_to_a_limit(random):
    images = random.random((4, 2, 2))
    X, Y, predictions = images.reshape(4, -1).T, np.array([[0.0, 1, 1, 0]]), np.array([0, 0, 1, 1])
    figure = rendered(plots.misclassified(X, Y, predictions, ("dog", "cat"), (2, 2)))
    assert titles(figure) == ["dog / cat", "cat / dog"]
    assert suptitle(figure) == "2 misclassified of 4: predicted / true"
    np.testing.assert_array_equal(shown(figure.axes[0]), images[1])
    np.testing.assert_array_equal(shown(figure.axes[1]), images[3])
    Y = np.eye(3)[[0, 1, 2, 2]].T
    figure = plots.misclassified(
        np.ones((4, 4)), Y, np.array([1, 2, 0, 2]), ("a", "b", "c"), (2, 2), limit=2
    )
    assert titles(figure) == ["b / a", "c / b"]
    assert suptitle(figure) == "the first 2 of 3 misclassified of 4: predicted / true"


def test_labels_are_taken_in_any_form():
    X, true, guessed = np.ones((4, 4)), np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    forms = (lambda Y: Y), (lambda Y: Y[None].astype(float)), (lambda Y: np.eye(2)[Y].T)
    for of_labels, of_predictions in zip(forms, reversed(forms), strict=True):
        Y, predictions = of_labels(true), of_predictions(guessed)
        figure = plots.misclassified(X, Y, predictions, ("dog", "cat"), (2, 2))
        assert titles(figure) == ["dog / cat", "cat / dog"]
        figure = plots.decision_boundary(*untrained(), X[:2], Y)
        assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [2, 2]


def test_every_picture_can_name_its_training_and_data(random):
    title = "cat-2layer, drawn stand-ins"
    X, Y, plane = random.random((4, 3)), np.array([0, 1, 1]), random.random((2, 3))
    net, params = untrained()
    curve = history([0.7, 0.3])
    for figure in (
        plots.costs({"a": curve, "b": curve}, title=title),
        plots.decision_boundaries([("a", net, params)], plane, Y, title=title),
        plots.comparison({"a": (net, params, curve)}, plane, Y, title=title),
        plots.pictures(X, None, (2, 2), title=title),
        plots.misclassified(X, Y, 1 - Y, ("a", "b"), (2, 2), title=title),
        plots.misclassified(X, Y, Y, ("a", "b"), (2, 2), title=title),
        plots.hidden_layer(Network([4, 2, 1]).init(), (2, 2), title=title),
    ):
        assert suptitle(figure).startswith(title)


def test_a_figure_without_misclassified_pictures_says_so():
    Y = np.array([[0, 1, 1]])
    figure = rendered(plots.misclassified(np.ones((4, 3)), Y, Y, ("a", "b"), (2, 2)))
    assert [text.get_text() for text in figure.texts] == ["none of 3 pictures is misclassified"]
    with pytest.raises(ValueError, match="the 2 pictures in X, got 3 predictions and 3 labels"):
        plots.misclassified(np.ones((4, 2)), Y, Y, ("a", "b"), (2, 2))


def test_the_hidden_layer_is_its_weights_around_zero():
    for shape in ((3, 2), (3, 2, 3)):
        params = Network([int(np.prod(shape)), 5, 1]).init("he", dtype="float64")
        figure = rendered(plots.hidden_layer(params, shape))
        W = params[0][0].reshape(5, *shape)
        expected = W if len(shape) == 2 else W.mean(axis=3)
        units = [axes for axes in figure.axes if axes.images]
        for axes, unit in zip(units, expected, strict=True):
            np.testing.assert_array_equal(shown(axes), unit)
            low, high = axes.images[0].get_clim()
            assert -low == high == np.abs(expected).max()
        assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["weight"]


def test_a_hidden_layer_of_zeros_is_drawn_and_of_other_pictures_refused():
    params = Network([6, 2, 1]).init("zeros")
    rendered(plots.hidden_layer(params, (3, 2)))
    with pytest.raises(ValueError, match=r"\(9, m\).*\(6, 2\)"):
        plots.hidden_layer(params, (3, 3))


# --------------------------------------------------------------------------------------------
# cost surfaces


def test_cost_surfaces_mark_where_the_cost_bends_down():
    w, b = np.linspace(-2, 2, 41), np.linspace(-1, 1, 21)
    W, B = np.meshgrid(w, b, indexing="ij")
    surfaces = {"convex": W**2 + B**2, "wave": np.cos(W) + B**2}
    figure = rendered(plots.cost_surfaces(w, b, surfaces))
    assert titles(figure) == ["convex", "at b = 0", "wave", "at b = 0"]
    *_, convex = figure.axes[1].lines
    *_, wave = figure.axes[3].lines
    assert np.isnan(convex.get_ydata()).all()
    bent = wave.get_xdata()[np.isfinite(wave.get_ydata())]
    np.testing.assert_array_equal(bent, w[np.cos(w) > 1e-12])


# --------------------------------------------------------------------------------------------
# notebooks, files, and matplotlib


def test_ipython_displays_a_figure():
    formatters = pytest.importorskip("IPython.core.formatters")
    figure = plots.costs({"a": history([1.0, 0.5])})
    data, _ = formatters.DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG")


def test_a_figure_can_be_copied():
    figure = plots.costs({"a": history([1.0, 0.5])})
    copied = pickle.loads(pickle.dumps(figure))
    assert copied._repr_png_().startswith(b"\x89PNG")
    assert copied._repr_png_.args[0] is copied


def test_save_writes_by_the_suffix_and_leaves_nothing_else(tmp_path):
    starts = {"a.png": b"\x89PNG", "a.pdf": b"%PDF", "A.SVG": b"<?xml"}
    for name, start in starts.items():
        path = tmp_path / name
        path.write_bytes(b"older")
        plots.save(plots.costs({"a": history([1.0, 0.5])}), path)
        assert path.read_bytes().startswith(start), name
    assert {path.name for path in tmp_path.iterdir()} == set(starts)


def test_a_save_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"older")
    figure = plots.costs({"a": history([1.0, 0.5])})

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        plots.save(figure, str(path))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_suffix_or_folder_is_refused(tmp_path):
    for name in ("a.gif", "a", ".png"):
        with pytest.raises(ValueError, match=rf"{name}: expected .*\.png, \.pdf or \.svg"):
            plots.save(plots.costs({"a": history([1.0])}), tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        plots.checked_path(tmp_path / "nowhere" / "a.png")
    assert plots.checked_path(tmp_path / "a.png") == tmp_path / "a.png"


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib: pip install .*\[plot\]"):
        plots.costs({"a": history([1.0])})


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    program = f"""
import sys
from accelnn import plots
assert "matplotlib" not in sys.modules
plots.save(plots.costs({{"a": ([0, 1], [2, 1])}}), {str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
