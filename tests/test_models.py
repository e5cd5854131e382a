"""Models come back from their files bit by bit, and every file that is wrong is said to be."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import backend, datasets, models
from accelnn.datasets.dataset import Preprocessing
from accelnn.functions import ACTIVATIONS
from accelnn.models import Model, load, save

PICTURES = Preprocessing(image_shape=(2, 2, 3), scale=255.0)


def small_model(dtype="float64", **changes):
    net = accelnn.Network([12, 3, 1], hidden="tanh", l2=0.1, keep_prob=0.7)
    params = net.init(seed=3, dtype=dtype)
    fields = {"net": net, "params": params, "classes": ("dog", "猫"), "preprocessing": PICTURES}
    return Model(**(fields | {"source": "drawn 猫", "stand_in": True} | changes))


def assert_same(a, b):
    """The same model, bit by bit, wherever its parameters are."""
    assert (a.net, a.classes) == (b.net, b.classes)
    assert (a.source, a.stand_in) == (b.source, b.stand_in)
    assert a.params.layers == b.params.layers
    assert a.params.dtype == b.params.dtype
    flats = [backend.to_host(model.params.flat).tobytes() for model in (a, b)]
    assert flats[0] == flats[1]
    assert a.preprocessing.image_shape == b.preprocessing.image_shape
    for name in ("shift", "scale"):
        values = [getattr(model.preprocessing, name) for model in (a, b)]
        assert np.shape(values[0]) == np.shape(values[1])
        np.testing.assert_array_equal(*values)


@pytest.fixture
def file(tmp_path):
    """The path of a good file, for tests that spoil it."""
    path = tmp_path / "model.h5"
    save(small_model(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


# ------------------------------------------------------------------------------ predictions


def test_a_model_predicts_raw_rows_as_the_network_predicts_standardised_columns(tmp_path, there):
    rng = np.random.default_rng(0)
    rows = rng.normal([0, 1000, 0], [1, 500, 1e-3], (60, 3))
    names = [("low", "middle", "high")[i] for i in np.digitize(rows[:, 1], [800, 1200])]
    lines = (f"{a},{b},{c},{name}" for (a, b, c), name in zip(rows, names, strict=True))
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,level", *lines]))
    data = datasets.load_csv(tmp_path / "t.csv", "level")
    net = accelnn.Network([3, 8, 3], output="softmax")
    params, _ = accelnn.fit(
        net, net.init("he"), data.X_train, data.Y_train, epochs=300, learning_rate=0.5
    )
    save(Model(net, params, data.classes, data.preprocessing), tmp_path / "m.h5")
    model = load(tmp_path / "m.h5")
    assert (model.predict(rows) == names).mean() > 0.9
    X = models.apply(data.preprocessing, there.to_device(rows), params.dtype)
    expected = backend.to_host(net.predict(params, X))
    np.testing.assert_array_equal(model.predict(rows), np.array(data.classes)[expected])
    probabilities = model.probabilities(rows)
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, 1e-6)


@pytest.mark.usefixtures("there")
def test_one_sigmoid_has_two_probabilities_and_linear_outputs_have_values():
    net = accelnn.Network([2, 1])
    params = net.init("zeros")
    params[0][0][...] = 1
    model = Model(net, params, preprocessing=Preprocessing(shift=1.0))
    assert model.classes == ("0", "1")
    assert model.predict(np.array([[1, 1], [2, 1], [0, 0]])).tolist() == ["0", "1", "0"]
    high = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(model.probabilities(np.array([[2, 1]])), [[1 - high, high]], 1e-6)
    linear = Model(accelnn.Network([2, 1], output="linear"), params)
    assert linear.classes == ()
    np.testing.assert_allclose(linear.predict(np.array([[2, 1], [0, 5]])), [[3], [5]])
    with pytest.raises(ValueError, match="no probabilities"):
        linear.probabilities(np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"shape \(m, 2\), got \(2, 3\): an example is a row"):
        model.predict(np.zeros((2, 3)))


def test_a_model_is_made_of_a_net_and_its_parameters_and_describes_itself(tmp_path):
    net = accelnn.Network([4, 12], output="softmax")
    model = Model(net, net.init(dtype="float32"))
    save(model, tmp_path / "m.h5")
    assert_same(load(tmp_path / "m.h5"), model)
    assert repr(model) == "<Model: net [4, 12]; 12 classes; float32>"
    assert repr(small_model()) == "<Model: net [12, 3, 1]; dog, 猫; float64; drawn 猫>"
    with pytest.raises(TypeError, match=r"a Network: pass accelnn.Model\(net, params\)"):
        save(net, tmp_path / "m.h5")


# ------------------------------------------------------------------------------ there and back


@st.composite
def a_model(draw):
    """Any model: any architecture, names, precision and preprocessing."""
    layers = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    output = draw(st.sampled_from(["sigmoid", "softmax", "linear"]))
    if output == "softmax":
        layers[-1] += 1
    depth = len(layers) - 2
    net = accelnn.Network(
        layers,
        hidden=[draw(st.sampled_from(list(ACTIVATIONS))) for _ in range(depth)],
        output=output,
        l2=draw(st.floats(0, 1e300)),
        keep_prob=[draw(st.floats(0, 1, exclude_min=True)) for _ in range(depth)],
    )
    dtype = draw(st.sampled_from(["float32", "float64"]))
    params = net.init("normal", seed=draw(st.integers(0, 99)), dtype=dtype)
    n_classes = 0 if output == "linear" else max(2, layers[-1])
    name = st.text(max_size=8)
    each = st.lists(st.floats(0.1, 1e9), min_size=layers[0], max_size=layers[0]).map(np.array)
    return Model(
        net,
        params,
        tuple(draw(name) for _ in range(n_classes)),
        Preprocessing(
            draw(st.sampled_from([None, (1, layers[0], 1)])),
            draw(st.floats(-1e9, 1e9) | each),
            draw(st.floats(0.1, 1e9) | each),
        ),
        draw(name),
        draw(st.booleans()),
    )


@given(model=a_model())
@settings(max_examples=80, deadline=None)
def test_every_model_comes_back_bit_by_bit(folder, model):
    save(model, folder / "any.h5")
    assert_same(load(folder / "any.h5"), model)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_come_back_on_the_chosen_backend_in_their_precision(there, tmp_path, dtype):
    model = small_model(dtype)
    save(model, tmp_path / "model.h5")
    loaded = load(tmp_path / "model.h5")
    assert backend.backend_of(loaded.params.flat) is there
    assert_same(loaded, model)


def test_a_model_of_the_device_is_loaded_on_the_host(double, tmp_path):
    model = small_model("float32")
    save(model, tmp_path / "model.h5")
    with backend.use("numpy"):
        loaded = load(tmp_path / "model.h5")
        assert type(loaded.params.flat) is np.ndarray
        assert_same(loaded, model)
    assert type(model.params.flat) is double.ndarray


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loaded_model_predicts_what_the_trained_one_does(there, tmp_path, random, dtype):
    pixels = random.integers(0, 256, (8, 12), dtype=np.uint8)
    X = models.apply(PICTURES, there.to_device(pixels), dtype)
    Y = there.to_device(np.arange(8)[None] % 2, dtype)
    net = accelnn.Network([12, 3, 1])
    params, _ = accelnn.fit(net, net.init(dtype=dtype), X, Y, epochs=30, learning_rate=0.1)
    save(Model(net, params, ("a", "b"), PICTURES), tmp_path / "model.h5")
    loaded = load(tmp_path / "model.h5")
    expected, found = (
        backend.to_host(n.forward(p, X)) for n, p in [(net, params), (loaded.net, loaded.params)]
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["", "é" * 300, "a\nb", "\udce9t\udce9", "🐈 ", "\x01", "a\0"])
def test_class_names_come_back_whatever_they_are(tmp_path, name):
    model = small_model(classes=(name, "other"))
    save(model, tmp_path / "model.h5")
    assert load(tmp_path / "model.h5").classes == (name, "other")


def test_the_file_says_what_it_is_to_other_programs(file):
    with h5py.File(file) as stored:
        assert stored.attrs["format"] == b"accelnn model"
        assert stored.attrs["format_version"] == 2
        assert stored.attrs["accelnn_version"] == accelnn.__version__.encode()
        assert json.loads(stored.attrs["model"])["classes"] == ["dog", "猫"]
        assert list(stored) == ["weights"]
        assert stored["weights"].fletcher32


@pytest.mark.parametrize("features", [1, 70_000])
def test_a_table_of_any_width_and_weights_of_many_chunks_come_back(tmp_path, random, features):
    net = accelnn.Network([features, 3])
    shift, scale = random.normal(size=features), random.uniform(0.1, 1e9, features)
    model = Model(net, net.init(), tuple("abc"), Preprocessing(shift=shift, scale=scale))
    save(model, tmp_path / "model.h5")
    assert_same(load(tmp_path / "model.h5"), model)


def test_importing_models_does_not_import_h5py():
    code = "import accelnn.models, sys; sys.exit('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------ preprocessing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pictures_are_scaled_as_the_loaders_scale_them(there, dtype):
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    labels = np.arange(4) % 2
    data = datasets.dataset.on_backend(
        (pixels, labels), (pixels, labels), ("a", "b"), "test", dtype
    )
    X = models.apply(data.preprocessing, there.to_device(pixels.reshape(4, 64)), dtype)
    assert X.dtype == dtype
    np.testing.assert_array_equal(backend.to_host(X), backend.to_host(data.X_train))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_table_is_scaled_as_its_loader_scales_it(there, tmp_path, random, dtype):
    rows = random.normal(1e6, [1, 1e3], (20, 2))
    lines = [f"{x!r},{y!r},{i % 2}" for i, (x, y) in enumerate(rows.tolist())]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,class", *lines]))
    data = datasets.load_csv(tmp_path / "table.csv", "class", dtype=dtype)
    X = models.apply(data.preprocessing, there.to_device(rows), dtype)
    loaded = [backend.to_host(part).T for part in (data.X_train, data.X_validation, data.X_test)]
    expected = sorted(np.concatenate(loaded).tolist())
    assert sorted(backend.to_host(X).T.tolist()) == expected


def test_raw_features_are_shifted_and_scaled_one_by_one_and_left_as_they_are(there):
    raw = np.array([[1e9, 5.0], [1e9 + 1, 7.0]])
    rows = there.to_device(raw.copy())
    preprocessing = Preprocessing(shift=np.array([1e9, 6.0]), scale=np.array([1.0, 0.5]))
    X = models.apply(preprocessing, rows, "float32")
    assert X.dtype == "float32"
    np.testing.assert_array_equal(backend.to_host(X), [[0, 1], [-2, 2]])
    np.testing.assert_array_equal(backend.to_host(rows), raw)


# ------------------------------------------------------------------------------ writing


def test_a_failed_save_leaves_the_old_file_and_nothing_else(file, monkeypatch):
    before = file.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(small_model("float32"), file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_a_file_is_replaced_by_a_whole_one(file):
    save(small_model("float32"), file)
    assert load(file).params.dtype == "float32"
    assert os.listdir(file.parent) == [file.name]


def test_a_saved_file_has_the_permissions_of_any_new_file(file):
    (file.parent / "new").touch()
    assert file.stat().st_mode == (file.parent / "new").stat().st_mode


def test_saving_into_no_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.model\.h5: there is no folder .*absent"):
        save(small_model(), tmp_path / "absent" / "model.h5")


def nan_weights():
    params = small_model().params
    params.flat[5] = np.nan
    return params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": accelnn.Network([12, 4, 1]).init()}, r"parameters of layers \[12, 4, 1\]"),
        ({"params": nan_weights()}, "1 NaN or infinite weights among 43"),
        ({"classes": ("one",)}, "1 classes, expected 2 for 1 sigmoid outputs"),
        ({"classes": ("a", 1)}, "expected texts"),
        ({"source": None}, "of None, expected texts"),
        ({"stand_in": "no"}, "stand_in 'no', expected True or False"),
        ({"preprocessing": Preprocessing((2, 2, 1))}, r"pictures of shape \(2, 2, 1\)"),
        ({"preprocessing": Preprocessing((-2, -2, 3))}, r"pictures of shape \(-2, -2, 3\)"),
        ({"preprocessing": Preprocessing((2.0, 2, 3))}, r"pictures of shape \(2.0, 2, 3\)"),
        ({"preprocessing": Preprocessing(scale=0.0)}, "a scale of 0"),
        ({"preprocessing": Preprocessing(shift=np.inf)}, "a shift of shape"),
        ({"preprocessing": Preprocessing(scale=np.ones(5))}, r"a scale of shape \(5,\)"),
    ],
)
def test_what_does_not_fit_is_not_saved(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save(small_model(**changes), tmp_path / "model.h5")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------ wrong files


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for path in (tmp_path / "absent.h5", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path}: no such file"):
            load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04N.", b"\0" * 5000])
def test_a_file_that_is_no_hdf5_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "foreign.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.h5 is not a model saved by accelnn$"):
        load(path)


@pytest.mark.parametrize("form", [None, "accelnn model", b"other", 7, [1, 2]])
def test_a_foreign_hdf5_file_is_said_to_be_foreign(tmp_path, form):
    path = tmp_path / "cats.h5"
    with h5py.File(path, "w") as file:
        file["train_set_x"] = np.zeros(3)
        if form is not None:
            file.attrs["format"] = np.bytes_(form) if isinstance(form, bytes) else form
    with pytest.raises(ValueError, match=r"cats\.h5 is not a model saved by accelnn$"):
        load(path)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_said_to_be_damaged(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"model\.h5: found no whole HDF5 file .* whole copy"):
        load(file)


def test_no_flipped_byte_goes_unnoticed(file):
    """Each is an error that names the file, or changed nothing that counts."""
    content, model = file.read_bytes(), small_model()
    noticed = harmless = 0
    places = [i for i, byte in enumerate(content) if byte][::3]
    for place in places:
        spoilt = bytearray(content)
        spoilt[place] ^= 0xFF
        file.write_bytes(spoilt)
        try:
            loaded = load(file)
        except ValueError as error:
            noticed += str(error).startswith((f"{file}: ", f"{file} is not a model"))
        else:
            assert_same(loaded, model)
            harmless += 1
    assert noticed + harmless == len(places)
    assert noticed > 100


def test_a_flipped_bit_of_a_weight_is_noticed(file):
    content = bytearray(file.read_bytes())
    weight = backend.to_host(small_model().params.flat)[:1].tobytes()
    content[content.index(weight)] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.h5: .*whole copy"):
        load(file)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (3, r"version 3, of accelnn 7\.0, expected 2, .*upgrade accelnn"),
        (1, r"version 1, of accelnn 7\.0, expected 2, .* reads: train and save it again"),
        (0, "version 0, .*expected 2"),
        ("2", "version None, .*expected 2"),
        (2.0, "version None, .*expected 2"),
        ([2, 2], "version None, .*expected 2"),
    ],
)
def test_another_version_says_what_to_do(file, version, says):
    with h5py.File(file, "r+") as stored:
        stored.attrs["format_version"] = version
        stored.attrs["accelnn_version"] = np.bytes_("7.0")
    with pytest.raises(ValueError, match=rf"model\.h5: found format {says}"):
        load(file)


WEIGHTS = 3 * 13 + 4


def rewrite(file, change=None, weights=None):
    """Edit the JSON and the weights of a file, and give it a checksum that matches."""
    with h5py.File(file, "r+") as stored:
        fields = json.loads(stored.attrs["model"])
        if change:
            change(fields)
        text = json.dumps(fields)
        stored.attrs["model"] = np.bytes_(text)
        if weights is not None:
            del stored["weights"]
            stored.create_dataset("weights", data=weights, chunks=weights.shape)
        stored.attrs["sha256"] = np.bytes_(models._digest(text, stored["weights"][()]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(WEIGHTS + 1), rf"expected a flat buffer of shape \({WEIGHTS},\)"),
        (np.zeros(WEIGHTS, int), "weights of dtype int64 and shape"),
        (np.zeros(WEIGHTS, "f2"), "weights of dtype float16"),
        (np.zeros(WEIGHTS, ">f8"), "weights of dtype >f8"),
        (np.full(WEIGHTS, np.nan), f"{WEIGHTS} NaN or infinite weights"),
        (np.zeros((WEIGHTS, 1)), "float32 or float64 in one dimension, in chunks"),
        (np.zeros(2**18), "in chunks of at most 1048576 bytes"),
    ],
)
def test_weights_that_do_not_fit_are_refused(file, weights, message):
    rewrite(file, weights=weights)
    assert_refused(file, message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("net layers", [12, 4, 1], "a flat buffer of shape"),
        ("net layers", [12], "at least two positive integers"),
        ("net layers", [12, 3.0, 1], "at least two positive integers"),
        ("net layers", [2**62, 2**62, 1], "a flat buffer of shape"),
        ("net hidden", ["swish"], "unknown hidden 'swish'"),
        ("net hidden", ["relu", "relu"], "expected hidden as one value or 1 of them"),
        ("net hidden", [["relu"]], None),
        ("net output", "argmax", "unknown output 'argmax'"),
        ("net l2", -1.0, "expected l2 >= 0"),
        ("net l2", "1", None),
        ("net keep_prob", [float("nan")], r"expected keep_prob in \(0, 1\]"),
        ("net other", 1, "unexpected keyword argument 'other'"),
        ("net", 1, None),
        ("classes", ["a", "b", "c"], "found 3 classes, expected 2"),
        ("classes", [1, 2], "expected texts"),
        ("classes", None, None),
        ("preprocessing image_shape", [3, 4], r"pictures of shape \(3, 4\)"),
        ("preprocessing image_shape", [2, 2, 4], r"pictures of shape \(2, 2, 4\)"),
        ("preprocessing image_shape", [2, 2, "3"], "pictures of shape"),
        ("preprocessing shift", [0, 0, 0], r"a shift of shape \(3,\)"),
        ("preprocessing shift", "x", "could not convert"),
        ("preprocessing scale", 0.0, "a scale of 0"),
        ("preprocessing", None, None),
        ("source", 1, "expected texts"),
        ("stand_in", 1, "found stand_in 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(file, path, value, message):
    *outer, name = path.split()

    def change(fields):
        for key in outer:
            fields = fields[key]
        fields[name] = value

    rewrite(file, change)
    assert_refused(file, message)


@pytest.mark.parametrize("name", ["net", "classes", "preprocessing", "source", "stand_in"])
def test_settings_that_are_missing_are_refused(file, name):
    rewrite(file, lambda fields: fields.pop(name))
    assert_refused(file, name)


def assert_refused(file, message):
    with pytest.raises(ValueError, match=message) as error:
        load(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "whole copy of the file, or train and save the model again" in str(error.value)


@pytest.mark.parametrize("name", ["weights", "model", "sha256"])
def test_a_file_that_lacks_a_part_is_refused(file, name):
    with h5py.File(file, "r+") as stored:
        del (stored if name == "weights" else stored.attrs)[name]
    assert_refused(file, "expected a dataset 'weights'" if name == "weights" else "checksum")


@pytest.mark.parametrize("value", ["text of variable length", 7, [1, 2], np.bytes_("{}")])
@pytest.mark.parametrize("name", ["model", "sha256"])
def test_an_attribute_that_was_edited_is_refused(file, name, value):
    with h5py.File(file, "r+") as stored:
        stored.attrs[name] = value
    assert_refused(file, "do not match their checksum")


def test_a_dataset_that_is_announced_and_not_there_takes_no_memory(file):
    with h5py.File(file, "r+") as stored:
        del stored["weights"]
        stored.create_dataset("weights", (2**40,), "f8", chunks=(2**10,))
    with pytest.raises(ValueError, match=r"found 8796093022208 bytes of weights .*, expected at"):
        load(file)
