"""Models come back from their files bit by bit, and every wrong file is refused."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.files import HOSTILE, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import backend, datasets, files, models
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
    """The path of a good file, for tests that change it."""
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


def test_parameters_come_back_on_the_chosen_backend_in_their_precision(there, tmp_path):
    for dtype in ("float32", "float64"):
        model = small_model(dtype)
        save(model, tmp_path / "model.h5")
        loaded = load(tmp_path / "model.h5")
        assert backend.backend_of(loaded.params.flat) is there
        assert_same(loaded, model)
        with backend.use("numpy"):
            loaded = load(tmp_path / "model.h5")
        assert type(loaded.params.flat) is np.ndarray
        assert_same(loaded, model)


def test_any_class_name_comes_back(tmp_path):
    for name in ("", "é" * 300, "a\nb", "\udce9t\udce9", "🐈 ", "\x01", "a\0"):
        save(small_model(classes=(name, "other")), tmp_path / "model.h5")
        assert load(tmp_path / "model.h5").classes == (name, "other")


def test_the_file_says_what_it_is_to_other_programs(file):
    with h5py.File(file) as stored:
        assert stored.attrs["format"] == b"accelnn model"
        assert stored.attrs["format_version"] == 2
        assert stored.attrs["accelnn_version"] == accelnn.__version__.encode()
        assert json.loads(stored.attrs["model"])["classes"] == ["dog", "猫"]
        assert list(stored) == ["weights"]
        assert stored["weights"].fletcher32


def test_a_table_of_any_width_and_weights_of_many_chunks_come_back(tmp_path, random):
    for features in (1, 70_000):
        net = accelnn.Network([features, 3])
        shift, scale = random.normal(size=features), random.uniform(0.1, 1e9, features)
        model = Model(net, net.init(), tuple("abc"), Preprocessing(shift=shift, scale=scale))
        save(model, tmp_path / "model.h5")
        assert_same(load(tmp_path / "model.h5"), model)


# ------------------------------------------------------------------------------ preprocessing


def test_raw_examples_are_scaled_as_their_loader_scales_them(there, tmp_path, random):
    pixels, labels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1), np.arange(4) % 2
    rows = random.normal(1e6, [1, 1e3], (20, 2))
    lines = [f"{x!r},{y!r},{i % 2}" for i, (x, y) in enumerate(rows.tolist())]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,class", *lines]))
    for dtype in ("float32", "float64"):
        pair = pixels, labels
        data = datasets.dataset.on_backend(pair, pair, ("a", "b"), "test", dtype)
        X = models.apply(data.preprocessing, there.to_device(pixels.reshape(4, 64)), dtype)
        assert X.dtype == dtype
        np.testing.assert_array_equal(backend.to_host(X), backend.to_host(data.X_train))
        data = datasets.load_csv(tmp_path / "table.csv", "class", dtype=dtype)
        X = models.apply(data.preprocessing, there.to_device(rows), dtype)
        parts = data.X_train, data.X_validation, data.X_test
        expected = np.concatenate([backend.to_host(part).T for part in parts])
        assert sorted(backend.to_host(X).T.tolist()) == sorted(expected.tolist()), dtype


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

    def full(*_):
        raise OSError(28, "No space left on device")

    for module, failing in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, failing, full)
            with pytest.raises(OSError, match="No space left"):
                save(small_model("float32"), file)
        assert file.read_bytes() == before, failing
        assert os.listdir(file.parent) == [file.name], failing


def test_a_file_is_replaced_by_a_whole_one_with_the_permissions_of_any_new_file(file):
    save(small_model("float32"), file)
    assert load(file).params.dtype == "float32"
    assert os.listdir(file.parent) == [file.name]
    (file.parent / "new").touch()
    assert file.stat().st_mode == (file.parent / "new").stat().st_mode


def test_names_of_any_length_are_written_or_refused_before_the_work(tmp_path):
    save(small_model(), tmp_path / f"{'m' * 252}.h5")
    with pytest.raises(OSError, match=r"m\.h5: cannot be written \(File name too long\)"):
        files.check_writable(tmp_path / f"{'m' * 253}.h5")


def test_what_killed_writers_left_is_deleted_after_an_hour(tmp_path):
    code = """import os, pathlib, sys
from accelnn import files
os.fsync = lambda file: os.kill(os.getpid(), 9)
files.write_whole("half", pathlib.Path(sys.argv[1]))"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5"], check=False)
    [old, new] = tmp_path.iterdir()
    own = tmp_path / ".accelnn-notes"
    own.touch()
    for each in (old, own):
        os.utime(each, (0, 0))
    files.write_whole("whole", tmp_path / "a.h5")
    assert set(tmp_path.iterdir()) == {new, own, tmp_path / "a.h5"}


def test_links_and_permissions_of_a_replaced_file_stay(tmp_path):
    (tmp_path / "folder").mkdir()
    path, link = tmp_path / "folder" / "a", tmp_path / "link"
    link.symlink_to(path)
    files.write_whole("old", link)
    path.chmod(0o600)
    files.write_whole("new", link)
    assert (link.readlink(), path.read_text(), path.stat().st_mode & 0o777) == (path, "new", 0o600)
    link.unlink()
    link.symlink_to(tmp_path / "absent" / "a")
    with pytest.raises(FileNotFoundError, match="link: there is no folder .*absent"):
        files.check_writable(link)


@pytest.mark.skipif(os.name != "posix", reason="no limits of file sizes")
def test_a_write_over_the_limit_of_sizes_leaves_the_old_file(tmp_path):
    code = """import pathlib, resource, sys
from accelnn import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_whole(bytes(2000), pathlib.Path(sys.argv[1]))
except OSError as error:
    print(error.strerror)"""
    path = tmp_path / "a"
    path.write_text("old")
    command = [sys.executable, "-c", code, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_saving_into_no_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.model\.h5: there is no folder .*absent"):
        save(small_model(), tmp_path / "absent" / "model.h5")


def nan_weights():
    params = small_model().params
    params.flat[5] = np.nan
    return params


WRONG_MODELS = [
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
]


def test_a_model_whose_parts_do_not_fit_is_not_saved(tmp_path):
    for changes, says in WRONG_MODELS:
        message = refusal(save, small_model(**changes), tmp_path / "model.h5")
        assert re.search(says, message), (changes, message)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------ wrong files


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.h5: no such file: take a whole copy"):
        load(tmp_path / "absent.h5")
    with pytest.raises(ValueError, match=f"{tmp_path}: found a folder, expected a file"):
        load(tmp_path)


def test_a_file_of_another_program_is_no_model(tmp_path):
    path = tmp_path / "cats.h5"
    says = f"{path} is not a model saved by accelnn"
    for content in (b"", b"hello", b"\x80\x04N.", b"\0" * 5000):
        path.write_bytes(content)
        assert refusal(load, path) == says, content
    for form in (None, "accelnn model", np.bytes_("other"), 7, [1, 2]):
        with h5py.File(path, "w") as file:
            file["train_set_x"] = np.zeros(3)
            if form is not None:
                file.attrs["format"] = form
        assert refusal(load, path) == says, form


def test_a_truncated_file_is_refused(file):
    content = file.read_bytes()
    for share in (0.01, 0.1, 0.3, 0.5, 0.9, 0.999):
        file.write_bytes(content[: int(len(content) * share)])
        message = refusal(load, file)
        assert re.search(r"model\.h5: not a whole HDF5 file .* whole copy", message), share


def test_no_flipped_byte_goes_unnoticed(file):
    """Each gives an error that names the file, or the same model."""
    content, model = file.read_bytes(), small_model()
    noticed = harmless = 0
    places = [i for i, byte in enumerate(content) if byte][::3]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        try:
            loaded = load(file)
        except ValueError as error:
            noticed += str(error).startswith((f"{file}: ", f"{file} is not a model"))
        else:
            assert_same(loaded, model)
            harmless += 1
    assert noticed + harmless == len(places)
    assert noticed > 100


def test_another_version_says_what_to_do(file):
    for version, says in (
        (3, rf"3, of accelnn 7\.0, expected 2, of {accelnn.__version__}: upgrade accelnn"),
        (1, rf"1, of accelnn 7\.0, expected 2, of {accelnn.__version__}: train and save it again"),
        (0, "0, .*expected 2"),
        ("2", "None, .*expected 2"),
        (2.0, "None, .*expected 2"),
        ([2, 2], "None, .*expected 2"),
    ):
        with h5py.File(file, "r+") as stored:
            stored.attrs["format_version"] = version
            stored.attrs["accelnn_version"] = np.bytes_("7.0")
        message = refusal(load, file)
        assert re.search(rf"model\.h5: format version: found {says}", message), (version, message)


WEIGHTS = 3 * 13 + 4


def rewrite(file, change=None, weights=None):
    """Edit the JSON and the weights of a file, and give it a checksum that matches."""
    with h5py.File(file, "r+") as stored:
        fields = json.loads(stored.attrs["model"])
        if change:
            change(fields)
        text = json.dumps(fields).encode()
        stored.attrs["model"] = np.bytes_(text)
        if weights is not None:
            del stored["weights"]
            stored.create_dataset("weights", data=weights, chunks=weights.shape)
        stored.attrs["sha256"] = models._digest(text, stored["weights"][()])


def assert_refused(file, says, change):
    """Loading is refused, for the reason `says`, after `change`; the file is restored."""
    content = file.read_bytes()
    change()
    message = refusal(load, file)
    assert re.search(says, message), (says, message)
    assert message.startswith(f"{file}: ")
    assert "whole copy of the file, or train and save the model again" in message
    file.write_bytes(content)


def test_weights_that_do_not_fit_are_refused(file):
    for weights, says in (
        (np.zeros(WEIGHTS + 1), rf"expected a flat buffer of shape \({WEIGHTS},\)"),
        (np.zeros(WEIGHTS, int), 'type "<i8">, expected float32 or float64'),
        (np.zeros(WEIGHTS, "f2"), 'type "<f2">, expected float32 or float64'),
        (np.zeros(WEIGHTS, ">f8"), 'type ">f8">, expected float32 or float64'),
        (np.full(WEIGHTS, np.nan), f"{WEIGHTS} NaN or infinite weights"),
        (np.zeros((WEIGHTS, 1)), r"shape \(43, 1\).* in one dimension"),
    ):
        assert_refused(file, says, lambda weights=weights: rewrite(file, weights=weights))


WRONG_SETTINGS = [
    ("net layers", [12, 4, 1], "a flat buffer of shape"),
    ("net layers", [12], "at least two positive integers"),
    ("net layers", [12, 3.0, 1], "at least two positive integers"),
    ("net layers", [2**62, 2**62, 1], "a flat buffer of shape"),
    ("net hidden", ["swish"], "unknown hidden 'swish'"),
    ("net hidden", ["relu", "relu"], "expected hidden as one value or 1 of them"),
    ("net hidden", [["relu"]], ""),
    ("net output", "argmax", "unknown output 'argmax'"),
    ("net l2", -1.0, "expected l2 >= 0"),
    ("net l2", "1", ""),
    ("net keep_prob", [float("nan")], r"expected keep_prob in \(0, 1\]"),
    ("net other", 1, "unexpected keyword argument 'other'"),
    ("net", 1, ""),
    ("classes", ["a", "b", "c"], "found 3 classes, expected 2"),
    ("classes", [1, 2], "expected texts"),
    ("classes", None, ""),
    ("preprocessing image_shape", [3, 4], r"pictures of shape \(3, 4\)"),
    ("preprocessing image_shape", [2, 2, 4], r"pictures of shape \(2, 2, 4\)"),
    ("preprocessing image_shape", [2, 2, "3"], "pictures of shape"),
    ("preprocessing shift", [0, 0, 0], r"a shift of shape \(3,\)"),
    ("preprocessing shift", "x", "could not convert"),
    ("preprocessing scale", 0.0, "a scale of 0"),
    ("preprocessing", None, ""),
    ("source", 1, "expected texts"),
    ("stand_in", 1, "found stand_in 1"),
]


def test_settings_that_do_not_fit_or_are_missing_are_refused(file):
    for path, value, says in WRONG_SETTINGS:
        *outer, name = path.split()

        def change(fields, outer=outer, name=name, value=value):
            for key in outer:
                fields = fields[key]
            fields[name] = value

        assert_refused(file, says, lambda change=change: rewrite(file, change))
    for name in ("net", "classes", "preprocessing", "source", "stand_in"):
        assert_refused(file, name, lambda name=name: rewrite(file, lambda f: f.pop(name)))
    for name in ("image_shape", "shift", "scale"):
        change = lambda fields, name=name: fields["preprocessing"].pop(name)  # noqa: E731
        assert_refused(file, name, lambda change=change: rewrite(file, change))


def test_json_that_is_deep_or_long_is_a_short_error(file):
    with h5py.File(file) as stored:
        text, weights = stored.attrs["model"].decode(), stored["weights"][()]
    for old, new in (
        (text, "[" * 10**6),
        ("0.1", "9" * 5000),
        ("0.1", "1e999"),
        ("255.0", "NaN"),
        ("[12, 3, 1]", f"[12, {'9' * 4000}, 1]"),
        ("true", f"[{'[],' * 10**5}1]"),
    ):
        changed = text.replace(old, new).encode()
        with h5py.File(file, "r+", libver="v108") as stored:
            del stored.attrs["model"]
            stored.attrs["model"] = np.bytes_(changed)
            stored.attrs["sha256"] = models._digest(changed, weights)
        message = refusal(load, file)
        assert message.startswith(f"{file}: "), (new[:9], message)
        assert len(message) < 1000, new[:9]


def test_a_file_that_lacks_a_part_or_has_another_is_refused(file):
    def delete(name):
        with h5py.File(file, "r+") as stored:
            del (stored if name == "weights" else stored.attrs)[name]

    assert_refused(file, "weights: found no dataset", lambda: delete("weights"))
    for name in ("model", "sha256"):
        assert_refused(file, "checksum: found other contents", lambda name=name: delete(name))
        for value in ("text of variable length", 7, [1, 2], np.bytes_("{}")):

            def change(name=name, value=value):
                with h5py.File(file, "r+") as stored:
                    stored.attrs[name] = value

            assert_refused(file, "checksum: found other contents", change)


def test_a_dataset_that_is_announced_and_not_there_takes_no_memory(file):
    with h5py.File(file, "r+") as stored:
        del stored["weights"]
        stored.create_dataset("weights", (2**40,), "f8", chunks=(2**10,))
    with pytest.raises(ValueError, match="found 1073741824 chunks of 8192 bytes, expected at most"):
        load(file)


def test_weights_outside_the_file_or_larger_than_it_are_refused_without_memory(file, tmp_path):
    for name, (replace, says) in HOSTILE.items():

        def change(replace=replace):
            with h5py.File(file, "r+") as stored:
                replace(stored, "weights", tmp_path)

        tracemalloc.start()
        assert_refused(file, says, change)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**24, name


def test_attributes_of_another_kind_are_refused_before_they_are_read(file):
    whole = file.read_bytes()
    for value in (h5py.Empty("S5"), h5py.Empty("i8"), h5py.Reference(), ["text"], "text", 2j, True):
        for name in ("format", "format_version", "accelnn_version", "model", "sha256"):
            with h5py.File(file, "r+") as stored:
                dtype = h5py.ref_dtype if isinstance(value, h5py.Reference) else None
                stored.attrs.create(name, value, dtype=dtype)
                if name == "accelnn_version":
                    stored.attrs["format_version"] = 3
            message = refusal(load, file)
            assert str(file) in message, (name, value)
            file.write_bytes(whole)


def test_a_pipe_or_a_device_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "model.h5")
    for path in (tmp_path / "model.h5", Path("/dev/zero")):
        assert "found a pipe or a device, expected a file" in refusal(load, path), path
