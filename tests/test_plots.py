"""Every picture: what it shows is what it was given, and nothing global is touched."""

import io
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import accelnn
from accelnn import Network, datasets, plots
from accelnn.backend import backend_of, to_device, to_host

pytest.importorskip("matplotlib")


def trained(layers=(2, 4, 1), epochs=20, data=None, **net):
    data = data or datasets.circles(m=60, dtype="float64")
    net = Network(layers, hidden="tanh", **net)
    params, history = accelnn.fit(
        net,
        net.init(dtype="float64"),
        data.X_train,
        data.Y_train,
        epochs=epochs,
        learning_rate=0.1,
        record_every=5,
    )
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


# --------------------------------------------------------------------------------------------
# costs


@pytest.mark.usefixtures("there")
def test_a_cost_curve_is_the_history():
    _, _, _, history = trained()
    [axes] = rendered(plots.costs({"circles": history})).axes
    [line] = axes.lines
    assert line.get_xdata().tolist() == [0, 5, 10, 15]
    assert line.get_ydata().tolist() == history.costs
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "cost")
    assert axes.get_title() == "circles"
    assert axes.get_legend() is None


@pytest.mark.usefixtures("there")
def test_several_cost_curves_get_a_legend():
    costs = to_device(np.array([0.7, 0.5]))
    figure = plots.costs({"0.01": history([0.7, 0.3]), "0.001": ([0, 100], costs)})
    [axes] = rendered(figure).axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0.01", "0.001"]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.7, 0.3], [0.7, 0.5]]
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize("n", [1, 4, 7])
@pytest.mark.parametrize("label", ["{}", "{} hidden units, learning rate 0.0075"])
def test_a_legend_hides_no_curve_and_is_whole(n, label):
    curves = {label.format(k): history([0.7, 0.7 - k / 10, 0.3]) for k in range(n)}
    trainings = {name: (*untrained(), curve) for name, curve in curves.items()}
    X, Y = np.ones((2, 3)), np.zeros(3)
    for figure in (plots.costs(curves), plots.comparison(trainings, X, Y)):
        rendered(figure)
        [*_, axes] = figure.axes
        below = figure.subfigs[-1] if figure.subfigs else figure
        assert len(below.legends) == (n > 1)
        for legend in below.legends:
            box = legend.get_window_extent()
            assert not box.overlaps(axes.get_tightbbox())
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert axes.get_window_extent().height > 150  # of 100 pixels an inch


def test_curves_on_one_another_can_be_seen():
    [axes] = plots.costs({str(k): history([0.7, 0.3]) for k in range(4)}).axes
    assert len({line.get_linestyle() for line in axes.lines}) == 4


@pytest.mark.parametrize(
    ("validation", "title"),
    [
        ([], "30 epochs, final cost 0.3"),
        ([0.7, 0.5, 0.45], "30 epochs, final cost 0.3, validation 0.45"),
    ],
)
def test_a_history_is_drawn_whole(validation, title):
    trained = history([0.7, 0.4, 0.3])
    trained.validation_costs = validation
    trained.final_validation_cost = validation[-1] if validation else None
    figure = rendered(plots.history(trained))
    [axes] = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [
        trained.costs,
        *([validation] if validation else []),
    ]
    text = suptitle(figure) if validation else axes.get_title()
    assert text == title


def test_minimize_counts_evaluations():
    data, net, params, sgd = trained()
    _, found = accelnn.minimize(net, params, data.X_train, data.Y_train, evaluations=5)
    [axes] = plots.history(found).axes
    assert axes.get_xlabel() == "evaluation"
    assert axes.get_title().startswith("5 evaluations, final cost 0.")
    assert plots.costs({"TNC": found, "sgd": sgd}).axes[0].get_xlabel() == "epoch"


@pytest.mark.parametrize("n", [1, 2, 3, 30])
def test_epochs_are_marked_by_whole_numbers(n):
    curve = list(range(n)), [0.7 - k / 100 for k in range(n)]
    [axes] = rendered(plots.costs({"a": curve})).axes
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_no_point_of_a_curve_is_left_out():
    _, _, _, history = trained(epochs=1000)
    [axes] = plots.history(history).axes
    assert len(axes.lines[0].get_xdata()) == len(history.costs) == 200


def test_many_curves_all_look_different():
    [axes] = plots.costs({str(k): history([0.7, 0.3]) for k in range(21)}).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 21


def test_costs_far_apart_get_a_logarithmic_axis():
    [axes] = rendered(plots.costs({"a": history([300, 1.0]), "b": history([0.7, 0.6])})).axes
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize("costs", [[0.7], [0.7, np.inf, np.nan], [np.nan], [0.5, 0.0], [50.0, -1]])
def test_odd_costs_are_drawn_too(costs):
    [axes] = rendered(plots.costs({"odd": history(costs)})).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), costs)
    assert (axes.lines[0].get_marker() == "o") == (len(costs) == 1)  # one point is no line


def test_no_curve_is_refused():
    with pytest.raises(ValueError, match="at least one cost curve"):
        plots.costs({})


# --------------------------------------------------------------------------------------------
# boundaries


@pytest.mark.usefixtures("there")
def test_regions_are_what_the_network_predicts():
    data, net, params, _ = trained(epochs=200)
    [axes] = rendered(plots.decision_boundary(net, params, data.X_train, data.Y_train)).axes
    left, right, bottom, top = axes.images[0].get_extent()
    plane = np.meshgrid(np.linspace(left, right, plots.GRID), np.linspace(bottom, top, plots.GRID))
    plane = to_device(np.stack(plane).reshape(2, -1))
    regions = to_host(net.predict(params, plane)).reshape(plots.GRID, plots.GRID)
    assert 0 < regions.mean() < 1
    np.testing.assert_array_equal(shown(axes), plots.TINTS[regions])
    assert axes.images[0].origin == "lower"
    assert (axes.get_title(), axes.get_xlabel()) == ("Decision boundary", "$x_1$")


@pytest.mark.usefixtures("there")
def test_examples_are_drawn_by_label_inside_the_margin():
    data, net, params, _ = trained()
    figure = rendered(plots.decision_boundary(net, params, data.X_train, data.Y_train, "mine"))
    [axes] = figure.axes
    X, Y = to_host(data.X_train), to_host(data.Y_train)[0]
    for k, points in enumerate(axes.collections):
        np.testing.assert_array_equal(points.get_offsets().T, X[:, k == Y])
    left, right, bottom, top = axes.images[0].get_extent()
    assert left < X[0].min() < X[0].max() < right
    assert bottom < X[1].min() < X[1].max() < top
    assert axes.get_title() == "mine"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["label 0", "label 1"]


def test_the_legend_names_the_classes():
    data, net, params, history = trained()
    given = data.X_train, data.Y_train
    for figure in (
        plots.decision_boundary(net, params, *given, classes=("in", "out")),
        plots.comparison({"a": (net, params, history)}, *given, classes=("in", "out")).subfigs[0],
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


def test_a_single_training_is_named_once():
    data, net, params, history = trained()
    figure = plots.comparison({"4 units": (net, params, history)}, data.X_train, data.Y_train)
    assert titles(figure) == ["4 units"]


def test_several_classes_have_a_region_each():
    data = datasets.blobs(m=90, classes=3, dtype="float64")
    data, net, params, _ = trained((2, 5, 3), 300, data, output="softmax")
    [axes] = rendered(plots.decision_boundary(net, params, data.X_train, data.Y_train)).axes
    assert len(np.unique(shown(axes).reshape(-1, 3), axis=0)) == 3
    assert len(axes.collections) == 3


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (7, 2, 4)])
def test_panels_wrap_at_four_a_row(n, rows, columns):
    data, net, params, _ = trained()
    names = [f"{k} units" for k in range(n)]
    panels = ((name, net, params) for name in names)
    figure = plots.decision_boundaries(panels, data.X_train, data.Y_train)
    assert titles(figure) == names
    assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)
    # an axis is labelled where no panel stands in between
    assert sum(axes.get_xlabel() == "$x_1$" for axes in figure.axes) == columns
    assert sum(axes.get_ylabel() == "$x_2$" for axes in figure.axes) == rows


@pytest.mark.usefixtures("there")
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


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.ones((3, 5)), np.ones((1, 5)), r"X of shape \(2, m\), got \(3, 5\).*two features"),
        (np.ones((2, 5)), np.ones((1, 4)), "labels of the 5 examples in X, got 4"),
        (np.ones((2, 0)), np.ones((1, 0)), "labels of the 0 examples"),
    ],
)
def test_data_that_makes_no_plane_is_refused(X, Y, message):
    net = Network([2, 1])
    with pytest.raises(ValueError, match=message):
        plots.decision_boundary(net, net.init(), X, Y)


def test_no_network_is_refused():
    with pytest.raises(ValueError, match="at least one network"):
        plots.decision_boundaries([], np.ones((2, 5)), np.ones((1, 5)))
    with pytest.raises(ValueError, match="at least one network"):
        plots.comparison({}, np.ones((2, 5)), np.ones((1, 5)))


# --------------------------------------------------------------------------------------------
# pictures


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_pictures_are_the_columns(random, shape):
    images = random.random((3, *shape))
    X = to_device(images.reshape(3, -1).T)
    figure = rendered(plots.pictures(X, ["a", "b", "c"], shape, columns=3))
    assert titles(figure) == ["a", "b", "c"]
    for axes, image in zip(figure.axes, images, strict=True):
        np.testing.assert_array_equal(shown(axes), image.squeeze())
        assert not axes.axison


def test_digits_ten_by_ten():
    digits = datasets.load_digits()
    figure = plots.pictures(digits.X_train[:, :100], None, (28, 28), columns=10)
    assert figure.axes[0].get_gridspec().get_geometry() == (10, 10)
    assert titles(figure) == []
    assert suptitle(figure) == ""


def test_one_picture_and_its_long_title_fit():
    title = "picture 176: non-cat, predicted cat with a probability of 0.7342"
    figure = rendered(plots.pictures(np.ones((12, 1)), [title], (2, 2, 3)))
    [axes] = figure.axes
    extent = axes.title.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.x1
    assert axes.get_title().replace("\n", " ") == title


def test_of_too_many_pictures_the_first_are_drawn_and_it_says_so():
    figure = plots.pictures(np.ones((4, 9)), [str(k) for k in range(9)], (2, 2), limit=5)
    assert titles(figure) == ["0", "1", "2", "3", "4"]
    assert suptitle(figure) == "the first 5 of 9"


def test_values_beyond_the_range_are_clipped():
    figure = plots.pictures(np.array([[-1.0], [0.5], [2.0]]), None, (1, 1, 3))
    np.testing.assert_array_equal(shown(figure.axes[0]), [[[0, 0.5, 1]]])


@pytest.mark.parametrize(
    ("X", "names", "shape", "message"),
    [
        (np.ones((12, 2)), None, (2, 2), r"4 numbers a picture.*\(2, 2\), got.*\(12, 2\)"),
        (np.ones(12), None, (2, 2, 3), r"got an array of shape \(12,\)"),
        (np.ones((8, 1)), None, (2, 2, 2), "1 or 3 channels"),
        (np.ones((4, 1)), None, (4,), r"\(height, width\).*got \(4,\)"),
        (np.ones((4, 0)), None, (2, 2), "at least one picture"),
        (np.ones((4, 2)), ["a"], (2, 2), "a title for each of 2 pictures, got 1"),
    ],
)
def test_what_is_no_picture_is_refused(X, names, shape, message):
    with pytest.raises(ValueError, match=message):
        plots.pictures(X, names, shape)


@pytest.mark.usefixtures("there")
def test_misclassified_pictures_are_titled_predicted_and_true(random):
    images = random.random((4, 2, 2))
    X = to_device(images.reshape(4, -1).T)
    Y, said = to_device(np.array([[0.0, 1, 1, 0]])), to_device(np.array([[0, 0, 1, 1]]))
    figure = rendered(plots.misclassified(X, Y, said, ("dog", "cat"), (2, 2)))
    assert titles(figure) == ["dog / cat", "cat / dog"]
    assert suptitle(figure) == "2 misclassified of 4: predicted / true"
    np.testing.assert_array_equal(shown(figure.axes[0]), images[1])
    np.testing.assert_array_equal(shown(figure.axes[1]), images[3])


def test_misclassified_of_several_classes_up_to_a_limit():
    Y = np.eye(3)[[0, 1, 2, 2]].T
    figure = plots.misclassified(
        np.ones((4, 4)), Y, np.array([1, 2, 0, 2]), ("a", "b", "c"), (2, 2), limit=2
    )
    assert titles(figure) == ["b / a", "c / b"]
    assert suptitle(figure) == "the first 2 of 3 misclassified of 4: predicted / true"


FORMS = {
    "(m,)": lambda Y: Y,
    "(1, m)": lambda Y: Y[None].astype(float),
    "one-hot": lambda Y: np.eye(2)[Y].T,
}


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("of_predictions", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("of_labels", FORMS.values(), ids=FORMS)
def test_labels_are_taken_in_any_form(of_labels, of_predictions):
    Y, said = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    X = to_device(np.ones((4, 4)))
    Y, said = to_device(of_labels(Y)), to_device(of_predictions(said))
    figure = plots.misclassified(X, Y, said, ("dog", "cat"), (2, 2))
    assert titles(figure) == ["dog / cat", "cat / dog"]
    net, params = untrained()
    figure = plots.decision_boundary(net, params, X[:2], Y)
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [2, 2]


def test_every_picture_can_name_its_training_and_data(random):
    data = SimpleNamespace(stand_in=True)
    title = plots.title_of("cat-2layer", data)
    assert title == "cat-2layer, drawn stand-ins"
    assert plots.title_of("", data) == "drawn stand-ins"
    assert plots.title_of("planar", SimpleNamespace(stand_in=False)) == "planar"
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


def test_where_nothing_is_misclassified_the_figure_says_so():
    Y = np.array([[0, 1, 1]])
    figure = rendered(plots.misclassified(np.ones((4, 3)), Y, Y, ("a", "b"), (2, 2)))
    assert [text.get_text() for text in figure.texts] == ["none of 3 pictures is misclassified"]


def test_predictions_for_other_pictures_are_refused():
    Y = np.array([[0, 1, 1]])
    with pytest.raises(ValueError, match="each of the 2 pictures in X, got 3 predictions"):
        plots.misclassified(np.ones((4, 2)), Y, Y, ("a", "b"), (2, 2))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 3)])
def test_the_hidden_layer_is_its_weights_around_zero(shape):
    params = Network([int(np.prod(shape)), 5, 1]).init("he", dtype="float64")
    figure = rendered(plots.hidden_layer(params, shape))
    W = to_host(params[0][0]).reshape(5, *shape)
    expected = W if len(shape) == 2 else W.mean(axis=3)
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 5
    for axes, unit in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(shown(axes), unit)
        low, high = axes.images[0].get_clim()
        assert -low == high == np.abs(expected).max()
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["weight"]


def test_a_hidden_layer_of_zeros_is_drawn_and_of_other_pictures_refused():
    params = Network([6, 2, 1]).init("zeros")
    rendered(plots.hidden_layer(params, (3, 2)))
    with pytest.raises(ValueError, match=r"9 numbers a picture.*\(6, 2\)"):
        plots.hidden_layer(params, (3, 3))


# --------------------------------------------------------------------------------------------
# cost surfaces


@pytest.mark.usefixtures("there")
def test_cost_surfaces_mark_where_the_cost_bends_down():
    w, b = np.linspace(-2, 2, 41), np.linspace(-1, 1, 21)
    W, B = np.meshgrid(w, b, indexing="ij")
    surfaces = {"convex": W**2 + B**2, "wave": np.cos(W) + B**2}
    surfaces = {name: to_device(costs) for name, costs in surfaces.items()}
    figure = rendered(plots.cost_surfaces(to_device(w), to_device(b), surfaces))
    assert titles(figure) == ["convex", "at b = 0", "wave", "at b = 0"]
    *_, convex = figure.axes[1].lines
    *_, wave = figure.axes[3].lines
    assert np.isnan(convex.get_ydata()).all()
    bent = wave.get_xdata()[np.isfinite(wave.get_ydata())]
    np.testing.assert_array_equal(bent, w[np.cos(w) > 1e-12])


# --------------------------------------------------------------------------------------------
# notebooks, files, and matplotlib


def test_a_figure_displays_itself_in_notebooks():
    png = plots.costs({"a": history([1.0, 0.5])})._repr_png_()
    assert png.startswith(b"\x89PNG")


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


@pytest.mark.parametrize(
    ("name", "starts"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("A.SVG", b"<?xml")]
)
def test_save_writes_by_the_suffix_and_leaves_nothing_else(tmp_path, name, starts):
    path = tmp_path / name
    path.write_bytes(b"older")
    plots.save(plots.costs({"a": history([1.0, 0.5])}), path)
    assert path.read_bytes().startswith(starts)
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"older")
    figure = plots.costs({"a": history([1.0, 0.5])})

    def full(part, **_):
        part.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="no space"):
        plots.save(figure, str(path))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.gif", "a", ".png"])
def test_other_suffixes_are_refused_with_those_that_work(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot write.*\.png, \.pdf or \.svg"):
        plots.save(plots.costs({"a": history([1.0])}), tmp_path / name)


def test_a_folder_that_is_not_there_is_named(tmp_path):
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


def test_the_plane_is_predicted_where_the_parameters_are(double, monkeypatch):
    data, net, params, _ = trained()
    seen = []
    predict = Network.predict
    monkeypatch.setattr(Network, "predict", lambda *args: seen.append(args[2]) or predict(*args))
    plots.decision_boundary(net, params, data.X_train, data.Y_train)
    assert [backend_of(X).name for X in seen] == ["cupy"]
    assert isinstance(seen[0], double.ndarray)
