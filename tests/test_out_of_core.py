"""Data in files that memory never holds as a whole: the training of the same data in memory."""

import gc
import threading
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import accelnn
from accelnn import Network, batches, columns, datasets, streaming, train
from accelnn.backend import to_device, to_host
from accelnn.columns import HostColumns, Stored

M, FEATURES, CLASSES = 301, 6, 3
# as HDF5 stores them: an array, how it is compressed, and which axis has the examples
LAYOUTS = {
    "rows": ({}, "rows"),
    "columns": ({}, "columns"),
    "gzip": ({"compression": "gzip", "chunks": (40, FEATURES)}, "rows"),
    "chunks of columns": ({"chunks": (2, 50), "shuffle": True}, "columns"),
}


class Slices:
    """An array of which only slices can be read, and what was read of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __getitem__(self, key):
        self.read.append(key)
        return self.array[key]


@pytest.fixture
def numbers(random):
    """Bytes (M, FEATURES), and labels (M,)."""
    return random.integers(0, 256, (M, FEATURES), np.uint8), random.integers(0, CLASSES, M)


@pytest.fixture
def file(numbers, tmp_path):
    """The same in an HDF5 file."""
    bytes_, labels = numbers
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for name, (options, examples) in LAYOUTS.items():
            array = bytes_ if examples == "rows" else np.ascontiguousarray(bytes_.T)
            file.create_dataset(name, data=array, **options)
        file["labels"], file["one-hot"] = labels, np.eye(CLASSES, dtype=np.uint8)[labels]
    with h5py.File(tmp_path / "data.h5") as file:
        yield file


def fitted(X, Y, dtype="float64", **options):
    net = Network([FEATURES, 5, 4, CLASSES], hidden=("tanh", "relu"), output="softmax", l2=0.1)
    net = Network(net.layers, net.hidden, net.output, net.l2, options.pop("keep_prob", 1.0))
    options = {"epochs": 3, "learning_rate": 0.1, "batch_size": 8, "solver": "direct"} | options
    params, history = accelnn.fit(net, net.init("he", seed=1, dtype=dtype), X, Y, **options)
    return to_host(params.flat), history


def check_same(one, other, rtol=0.0):
    """The same weights and records; what is computed when asked for may differ in the last bit."""
    np.testing.assert_allclose(one[0], other[0], rtol=rtol, atol=rtol)
    for name in ("costs", "validation_costs", "final_cost", "final_validation_cost"):
        values = [getattr(history, name) for _, history in (one, other)]
        assert (values[0] is None) == (values[1] is None)
        if values[0] is not None:
            np.testing.assert_allclose(*values, rtol=max(rtol, 1e-12), err_msg=name)


VARIANTS = {
    "plain": {},
    "dropout and a validation split": {"keep_prob": 0.8, "validation": 0.2, "seed": 3},
    "adam on weighted examples": {"optimizer": "adam", "weights": np.arange(M) % 3},
    "in the file's order": {"shuffle": False, "optimizer": "momentum"},
    "your own orders": {"shuffle": [np.roll(np.arange(M)[::-1], i) for i in range(3)]},
    "one batch": {"batch_size": 1000},
    "one example a batch": {"batch_size": 1, "epochs": 1},
    "patience": {"validation": 0.5, "patience": 1, "learning_rate": 3.0},
}


# --------------------------------------------------------------------------------------------
# the same training


@pytest.mark.parametrize("solver", ["direct", "jitted"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_gives_the_bits_of_the_same_data_in_memory(numbers, file, solver, variant):
    X, labels = (numbers[0] / 255.0).T, numbers[1]
    options = {"shuffle": 16, "solver": solver, **VARIANTS[variant]}
    expected = fitted(X, labels, **options)
    for name, (_, examples) in LAYOUTS.items():
        stored = accelnn.stored(file[name], scale=255, examples=examples)
        check_same(fitted(stored, file["labels"], **options), expected)
    check_same(fitted(stored, file["one-hot"], **options), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_anything_with_shape_dtype_and_slices_is_streamed(numbers, tmp_path, solver, dtype):
    X, labels = numbers
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    sources = {"mapped": accelnn.stored(mapped), "slices": Slices(X), "columns": Slices(X.T)}
    sources["pictures"] = accelnn.stored(Slices(X.reshape(M, 2, 1, 3)))
    for name, source in sources.items():
        got = fitted(source, labels, dtype, solver=solver)
        assert got[1].block_size == 2**20 // FEATURES, name
        shuffle = got[1].block_size
        check_same(got, fitted(X.T, labels, dtype, solver=solver, shuffle=shuffle))


def test_a_memory_map_is_an_array(numbers, tmp_path):
    X, labels = numbers
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r").T
    check_same(fitted(mapped, labels), fitted(X.T, labels))


def test_a_zarr_array_is_streamed(numbers, tmp_path):
    zarr = pytest.importorskip("zarr")
    X, labels = numbers
    array = zarr.create_array(str(tmp_path / "z"), shape=X.shape, chunks=(50, 6), dtype=X.dtype)
    array[:] = X
    got = fitted(array, labels)
    check_same(got, fitted(X.T, labels, shuffle=got[1].block_size))


def test_blosc_and_zstd_are_read_by_hdf5plugin(numbers, tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    X, labels = numbers
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for name, kind in (("blosc", hdf5plugin.Blosc()), ("zstd", hdf5plugin.Zstd())):
            stored = file.create_dataset(name, data=X, chunks=(40, FEATURES), **kind)
            check_same(fitted(stored, labels, shuffle=16), fitted(X.T, labels, shuffle=16))


@pytest.mark.parametrize("solver", ["gram", "gram-jitted", "auto", "direct"])
@pytest.mark.parametrize("variant", [{}, {"optimizer": "momentum"}, {"validation": 0.3, "seed": 2}])
def test_full_batches_read_some_features_at_a_time(random, monkeypatch, solver, variant):
    m, n = 20, 300
    X, Y = random.normal(size=(n, m)), random.integers(0, 2, m)
    net = Network([n, 4, 1], l2=0.3)
    options = {"epochs": 30, "learning_rate": 0.02, "validation": (X[:, :5], Y[:5]), **variant}
    expected, history = accelnn.fit(net, net.init("he"), X, Y, solver="direct", **options)
    monkeypatch.setattr(streaming, "SLAB_BYTES", 7 * m * 8)
    for stored in (Slices(X), Slices(np.ascontiguousarray(X.T)), Slices(X.T.reshape(m, 10, 30))):
        got, streamed = accelnn.fit(net, net.init("he"), stored, Y, solver=solver, **options)
        np.testing.assert_allclose(got.flat, expected.flat, rtol=1e-11, atol=1e-12)
        for name in ("costs", "validation_costs", "final_cost", "final_validation_cost"):
            values = getattr(streamed, name), getattr(history, name)
            np.testing.assert_allclose(*values, rtol=1e-11, err_msg=name)
        if options.get("optimizer"):
            moments = streamed.state.moments[0], history.state.moments[0]
            np.testing.assert_allclose(*moments, rtol=1e-10, atol=1e-12)


def test_sample_space_holds_a_slab_of_features(random, monkeypatch):
    m, n = 10, 5000
    monkeypatch.setattr(streaming, "SLAB_BYTES", 100 * m * 8)
    stored, net = Slices(random.normal(size=(n, m))), Network([n, 2, 1])
    accelnn.fit(net, net.init(), stored, random.integers(0, 2, m), epochs=9, learning_rate=1e-3)
    assert {key.stop - key.start for key in stored.read if isinstance(key, slice)} == {100}


def test_a_network_passes_forward_over_a_file(numbers, file, monkeypatch):
    monkeypatch.setattr(streaming, "HOST_CHUNK_BYTES", 1)  # an example at a time
    X, labels = (numbers[0] / 255.0).T, numbers[1]
    net = Network([FEATURES, 5, CLASSES], output="softmax", l2=0.1)
    params = net.init("he")
    for name in ("rows", "columns"):
        stored = accelnn.stored(file[name], scale=255, examples=name)
        np.testing.assert_allclose(net.forward(params, stored), net.forward(params, X), rtol=1e-13)
        np.testing.assert_array_equal(net.predict(params, stored), net.predict(params, X))
        assert net.accuracy(params, stored, file["labels"]) == net.accuracy(params, X, labels)
        weights = np.arange(M)
        got = net.cost(params, stored, file["one-hot"], weights)
        np.testing.assert_allclose(got, net.cost(params, X, labels, weights), rtol=1e-12)
    np.testing.assert_array_equal(
        net.gradients(params, file["rows"], labels).flat,
        net.gradients(params, numbers[0].T.astype(float), labels).flat,
    )


def test_trainings_at_once_share_a_file(numbers, file):
    X, labels = numbers
    net = Network([FEATURES, 4, CLASSES], output="softmax")
    options = {"epochs": 2, "learning_rate": [0.1, 0.2], "batch_size": 16}
    found = accelnn.fit_many(net, net.init("he"), file["rows"], labels, **options)
    block = found[0][1].block_size
    expected = accelnn.fit_many(net, net.init("he"), X.T, labels, shuffle=block, **options)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0].flat, other[0].flat)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("variant", [{}, {"validation": 0.25}])
def test_a_file_is_streamed_to_a_device(numbers, file, variant):
    X, labels = (numbers[0] / 255.0).T, numbers[1]
    stored = accelnn.stored(file["gzip"], scale=255)
    got = fitted(stored, file["labels"], "float32", shuffle=16, **variant)
    resident = to_device(X, "float32"), to_device(labels)
    check_same(got, fitted(*resident, "float32", shuffle=16, **variant), rtol=1e-6)
    assert got[1].backend == "cupy"


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_sample_space_on_a_device_reads_a_file(random, monkeypatch):
    m, n = 20, 300
    X, Y = random.normal(size=(n, m)), random.integers(0, 2, m)
    monkeypatch.setattr(streaming, "SLAB_BYTES", 7 * m * 8)
    net = Network([n, 4, 1], l2=0.3)
    options = {"epochs": 10, "learning_rate": 0.02, "solver": "gram"}
    first = net.init("he", dtype="float64")
    got, history = accelnn.fit(net, first, Slices(X), Y, **options)
    expected, resident = accelnn.fit(net, first, to_device(X), to_device(Y), **options)
    np.testing.assert_allclose(to_host(got.flat), to_host(expected.flat), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(history.final_cost, resident.final_cost, rtol=1e-12)


# --------------------------------------------------------------------------------------------
# the order


@given(m=st.integers(1, 200), block=st.integers(1, 40), seed=st.integers(0, 5))
def test_blocks_that_are_shuffled_together_are_whole(m, block, seed):
    (order,) = (order for order, _ in zip(batches.orders(m, seed, block), "1", strict=False))
    assert batches.is_permutation(order)
    together = batches.BLOCKS * block
    for start in range(0, m, together):
        examples = np.sort(order[start : start + together])
        runs = 1 + int((np.diff(examples) > 1).sum())
        assert runs <= batches.BLOCKS + 2  # a short last block moves those that follow it


def test_blocks_are_drawn_from_all_over_the_data():
    order = next(batches.orders(10_000, 0, 10))
    first = order[: batches.BLOCKS * 10]
    assert len(set(first // 10)) == batches.BLOCKS
    assert np.ptp(first) > 5_000
    assert abs(np.corrcoef(np.arange(len(first)), first)[0, 1]) < 0.3


def test_the_order_follows_from_the_seed_and_the_block_size():
    def orders(*given):
        return [order.tolist() for order, _ in zip(batches.orders(100, *given), "12", strict=False)]

    assert orders(0, 7) == orders(0, 7)
    assert len({str(orders(*given)) for given in ((0, 7), (1, 7), (0, 8), (0, True))}) == 4
    assert orders(0, 7)[0] != orders(0, 7)[1]
    assert next(batches.orders(100, 0, 7, first=1)).tolist() == orders(0, 7)[1]


def test_a_block_of_a_chunked_file_has_whole_chunks(tmp_path):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        rows = file.create_dataset("rows", (10_000, 1000), np.uint8, chunks=(300, 100))
        across = file.create_dataset("across", (1000, 10_000), np.uint8, chunks=(100, 70))
        assert (Stored(rows).block, Stored(across, by_columns=True).block) == (1200, 1050)


@pytest.mark.parametrize("by_columns", [False, True])
@given(data=st.data())
def test_any_rows_can_be_gathered(by_columns, data):
    rows = np.arange(120.0).reshape(40, 3)
    stored = Stored(rows.T if by_columns else rows, by_columns)
    chosen = np.array(data.draw(st.lists(st.integers(0, 39), max_size=60)), np.int64)
    step = data.draw(st.sampled_from([1, 50, 2**20]))
    out, held = np.empty((len(chosen), 3), np.float32), HostColumns(stored, np.dtype("float32"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "GAP", data.draw(st.sampled_from([0, 100, 2**16])))
        patch.setattr(columns, "BLOCK_BYTES", step)
        held.gather(chosen, out)
    np.testing.assert_array_equal(out, rows[chosen])


# --------------------------------------------------------------------------------------------
# what memory holds


@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_memory_holds_a_few_pieces_of_the_data(random, solver):
    m, n = 40_000, 500
    stored = Slices(np.broadcast_to(random.integers(0, 256, (100, n), np.uint8), (400, 100, n)))
    stored.array = stored.array.reshape(m, n)  # 20 MB of bytes, 160 of float64
    stored.shape = stored.array.shape
    net, Y = Network([n, 4, 1]), random.integers(0, 2, m)
    options = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 100, "solver": solver}
    options |= {"shuffle": 100, "validation": 0.2}
    accelnn.fit(net, net.init(), X=stored.array[:200].T, Y=Y[:200], **options)  # compiles
    tracemalloc.start()
    _, history = accelnn.fit(net, net.init(), stored, Y, **options)
    assert history.final_cost > 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * streaming.HOST_CHUNK_BYTES
    assert max(key.stop - key.start for key in stored.read) <= columns.BLOCK_BYTES // n


def test_each_block_is_read_once_an_epoch(monkeypatch):
    monkeypatch.setattr(columns, "GAP", 0)  # else rows between two blocks may be read too
    m = 4000
    stored, net = Slices(np.zeros((m, FEATURES), np.uint8)), Network([FEATURES, 2, 1])
    options = {"epochs": 3, "learning_rate": 0.1, "batch_size": 7, "shuffle": 10}
    accelnn.fit(net, net.init(), stored, np.zeros(m, int), **options)
    epochs = sum(key.stop - key.start for key in stored.read) / m
    assert 3 <= epochs <= 4.1  # the next one is read ahead


def test_bytes_in_a_file_are_not_read_before_the_training(numbers):
    stored = Slices(numbers[0])
    fitted(stored, numbers[1], epochs=0)
    assert not stored.read


def nothing_reads():
    gc.collect()  # an exception and its frames hold each other
    return not any("accelnn-read" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_no_thread_reads_after_a_training(numbers, solver):
    X, labels = Slices(numbers[0]), numbers[1]
    fitted(X, labels, solver=solver)
    assert nothing_reads()

    def failing(_now):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fitted(X, labels, solver=solver, callbacks=[failing])
    assert nothing_reads()


# --------------------------------------------------------------------------------------------
# what cannot be read


class Failing(Slices):
    """An array of which the third slice cannot be read."""

    def __getitem__(self, key):
        if len(self.read) == 2:
            raise OSError(5, "Input/output error")
        return super().__getitem__(key)


@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_an_error_of_the_disk_ends_the_training(numbers, solver):
    with pytest.raises(OSError, match="Input/output error"):
        fitted(Failing(numbers[0]), numbers[1], solver=solver, epochs=9)
    assert nothing_reads()


def test_a_closed_file_is_an_error(numbers, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = accelnn.stored(file.create_dataset("x", data=numbers[0]))
        _, history = fitted(stored, numbers[1])
    with pytest.raises((ValueError, RuntimeError)):
        fitted(stored, numbers[1])
    with pytest.raises((ValueError, RuntimeError)):
        _ = history.final_cost


def test_nan_in_a_file_is_refused_before_training(numbers):
    X = numbers[0].astype(np.float32)
    X[250, 2] = np.nan
    with pytest.raises(ValueError, match=r"X has 1 NaN or infinite values among 1806"):
        fitted(Slices(X), numbers[1])


def test_labels_out_of_range_are_refused(numbers, file):
    with pytest.raises(ValueError, match=r"labels"):
        fitted(file["rows"], numbers[1] + 1)
    with pytest.raises(ValueError, match="sum to 1"):
        fitted(file["rows"], Slices(np.full((M, CLASSES), 0.5)))


def test_examples_that_may_be_rows_or_columns_are_refused(random):
    square = random.normal(size=(FEATURES, FEATURES))
    labels = random.integers(0, CLASSES, FEATURES)
    with pytest.raises(ValueError, match=r"rows or columns: pass accelnn.stored\(.*examples="):
        fitted(Slices(square), labels)
    rows, across = (
        fitted(accelnn.stored(Slices(square), examples=name), labels, shuffle=2)
        for name in ("rows", "columns")
    )
    check_same(across, fitted(square, labels, shuffle=2))
    check_same(rows, fitted(square.T, labels, shuffle=2))


def test_other_shapes_are_refused(numbers):
    with pytest.raises(ValueError, match=rf"X of shape \(6, m\), or \(m, 6\).* got \({M}, 5\)"):
        fitted(Slices(numbers[0][:, :5]), numbers[1])
    with pytest.raises(ValueError, match=r"expected Y of shape \(3, 301\).*got \(300,\)"):
        fitted(Slices(numbers[0]), numbers[1][:-1])


REFUSED = {
    "a list": ([[1.0]], {}, TypeError, "list"),
    "a vector": (np.zeros(3), {}, TypeError, r"two axes or more.*\(3,\)"),
    "texts": (np.array([["a"]]), {}, TypeError, "real numbers, got <U1"),
    "a scale of 0": (np.zeros((2, 2)), {"scale": 0.0}, ValueError, "scale above 0, got 0"),
    "an axis": (np.zeros((2, 2)), {"examples": "axis"}, ValueError, "'rows', or 'columns'"),
    "pictures": (np.zeros((2, 2, 2)), {"examples": "columns"}, ValueError, "two axes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_stored_refuses(case):
    numbers, options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        accelnn.stored(numbers, **options)


@pytest.mark.parametrize("shuffle", [0, -3, 2.5, "blocks", None])
def test_shuffle_refuses(numbers, shuffle):
    with pytest.raises((ValueError, TypeError), match="shuffle"):
        fitted(numbers[0].T, numbers[1], shuffle=shuffle)


# --------------------------------------------------------------------------------------------
# the command


@pytest.fixture
def pictures(random, tmp_path):
    """A file like the cats', 60 pictures of three kinds."""
    labels = np.arange(60) % 3
    X = (
        random.integers(0, 100, (60, 4, 4, 1), np.uint8)
        + 50 * labels.astype(np.uint8)[:, None, None, None]
    )
    with h5py.File(tmp_path / "pictures.h5", "w") as file:
        file["train_set_x"], file["train_set_y"] = X, labels
        file["list_classes"] = np.array([b"a", b"b", b"c"])
    return tmp_path / "pictures.h5"


def test_a_data_set_may_stay_in_its_file(pictures):
    data, held = (datasets.load_hdf5(pictures, stream=stream) for stream in (True, False))
    for name in ("train", "validation", "test"):
        X, expected = (getattr(each, f"X_{name}") for each in (data, held))
        assert isinstance(X, HostColumns)
        assert X.in_file
        # the same examples, in the order of the file
        columns_of = [sorted(map(tuple, np.asarray(each).T.tolist())) for each in (X, expected)]
        assert columns_of[0] == columns_of[1]
        assert (np.diff(X.chosen) > 0).all()
    assert data.preprocessing.image_shape == held.preprocessing.image_shape == (4, 4, 1)


def test_the_command_streams_a_file_in_batches(pictures, tmp_path, capsys):
    options = ["--hdf5", str(pictures), "--batch-size", "8", "--epochs", "40", "--hidden", "8"]
    out, plot = tmp_path / "out.json", tmp_path / "p.png"
    assert train.main([*options, "--json", str(out), "--plot", str(plot)]) == 0
    assert "accuracy" in capsys.readouterr().out
    data = datasets.load_hdf5(pictures, stream=True)
    assert (tmp_path / "p-misclassified.png").exists()
    assert '"block_size": 65536' in out.read_text()
    assert data.X_train.shape == (16, 42)


def test_a_filter_that_is_not_installed_is_named(pictures, monkeypatch):
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda _number: False)
    with h5py.File(pictures, "r+") as file:
        X = file["train_set_x"][()]
        del file["train_set_x"]
        file.create_dataset("train_set_x", data=X, compression="gzip")
    with pytest.raises(ValueError, match=r"train_set_x: .*filter of HDF5's number 1.*hdf5plugin"):
        datasets.load_hdf5(pictures, stream=True)


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.load_hdf5(path, stream=True)
    path.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="not a whole HDF5 file"):
        datasets.load_hdf5(path, stream=True)
    with h5py.File(path, "w") as file:
        file["train_set_x"] = np.zeros((30, 30))
    with path.open("r+b") as raw:
        raw.truncate(path.stat().st_size - 1000)
    with pytest.raises(ValueError, match="not a whole HDF5 file.*truncated"):
        datasets.load_hdf5(path, stream=True)
    with h5py.File(path, "w") as file:
        file["train_set_x"] = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"list_classes.*only the keys \['train_set_x'\]"):
        datasets.load_hdf5(path, stream=True)
