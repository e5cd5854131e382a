"""Data on the host, streamed to the device: the same training, and no resource left over."""

import gc
import itertools
import threading
import tracemalloc
import types

import numpy as np
import pytest
from doubles import streams as streams_double

import accelnn
from accelnn import Network, backend, batches, columns, datasets, streaming, train
from accelnn.backend import to_device, to_host
from accelnn.columns import HostColumns
from accelnn.scores import accuracy, labels

pytestmark = pytest.mark.slow

M, FEATURES = 53, 6

shows_too_large_data = pytest.mark.filterwarnings("always:the data takes")


@pytest.fixture(params=["double", pytest.param("cupy", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy, chosen: the device double, and the real one on a real GPU."""
    if request.param == "double":
        return request.getfixturevalue("double")
    backend.use("cupy")
    return backend.current().xp


@pytest.fixture
def data(random):
    """X (FEATURES, M) float64 with contiguous examples, and Y (3, M) one-hot."""
    X = random.normal(size=(M, FEATURES)).T
    return X, accelnn.one_hot(random.integers(0, 3, M), 3)


def a_net(**options):
    return Network([FEATURES, 5, 4, 3], hidden=("tanh", "relu"), output="softmax", **options)


def fitted(X, Y, dtype="float64", net=None, **options):
    """The trained weights on the host, and the history."""
    net = net or a_net()
    options = {"epochs": 4, "learning_rate": 0.1, "batch_size": 8, "solver": "direct"} | options
    params, history = accelnn.fit(net, net.init("he", seed=1, dtype=dtype), X, Y, **options)
    return to_host(params.flat), history


def check_same(streamed, resident, variant=""):
    """The same weights and costs: to the last bit, but for a GPU's products."""
    exact = resident[1].device == "device double"
    close = {"rtol": 0 if exact else 1e-5, "atol": 0 if exact else 1e-6}
    np.testing.assert_allclose(streamed[0], resident[0], err_msg=str(variant), **close)
    for name in ("costs", "validation_costs", "final_cost", "final_validation_cost"):
        value, expected = (getattr(history, name) for _, history in (streamed, resident))
        assert (value is None) == (expected is None), (variant, name)
        if value is not None:
            np.testing.assert_allclose(value, expected, err_msg=f"{variant} {name}", **close)
    assert streamed[1].backend == "cupy"


def nothing_is_left():
    """Whether no thread gathers, no copy is under way and no memory is pinned."""
    gc.collect()  # an exception and its frames hold each other
    names = [thread.name for thread in threading.enumerate()]
    under_way = sum(len(stream.put_off) for stream in streams_double.streams)
    return not (any("gather" in n for n in names) or under_way or streams_double.Pinned.bytes)


# --------------------------------------------------------------------------------------------
# the same training


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streamed_is_the_training_of_data_that_is_on_the_device(data, dtype):
    moved = [to_device(array, dtype) for array in data]
    for batch_size in (1, 7, 26, 52, 53, 100):
        streamed = fitted(*data, dtype, batch_size=batch_size)
        check_same(streamed, fitted(*moved, dtype, batch_size=batch_size), batch_size)


@pytest.mark.usefixtures("cupy")
def test_every_kind_of_training_can_be_streamed(data):
    for optimizer, keep_prob in itertools.product(["momentum", "adam"], [1.0, 0.7]):
        net = a_net(l2=0.1, keep_prob=keep_prob)
        options = {"net": net, "optimizer": optimizer, "seed": 3, "record_every": 2}
        resident = fitted(*map(to_device, data), **options)
        check_same(fitted(*data, **options), resident, (optimizer, keep_prob))


@pytest.mark.usefixtures("double_with_kernels")
def test_kernels_can_work_on_streamed_data(data):
    options = {"net": a_net(l2=0.1, keep_prob=0.7), "optimizer": "adam", "epochs": 2}
    check_same(fitted(*data, **options), fitted(*map(to_device, data), **options))


def bytes_of(X):
    return ((X - X.min()) * 40).astype(np.uint8)


STORED = {
    "rows": lambda X: X,
    "columns": np.ascontiguousarray,
    "every second feature": lambda X: np.repeat(X, 2, axis=0)[::2],
    "single precision": lambda X: X.astype(np.float32),
    "half precision": lambda X: X.astype(np.float16),
    "swapped bytes": lambda X: X.T.astype(">f4").T,
    "bytes": bytes_of,
    "long integers": lambda X: bytes_of(X).astype(np.int64),
    "truth values": lambda X: X > 0,
    "read-only": lambda X: np.frombuffer(X.T.tobytes()).reshape(M, FEATURES).T,
}


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_of_any_type_and_order_are_streamed(data, dtype, tmp_path):
    for name, stored in STORED.items():
        X, Y = stored(data[0]), data[1]
        resident = to_device(X.astype(dtype)), to_device(Y, dtype)
        check_same(fitted(X, Y.astype(np.int8), dtype), fitted(*resident, dtype), name)
    np.save(tmp_path / "rows.npy", data[0].T.astype(dtype))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r").T
    resident = fitted(*(to_device(array, dtype) for array in data), dtype)
    check_same(fitted(mapped, data[1], dtype), resident, "mapped")


@pytest.mark.usefixtures("cupy")
def test_bytes_are_scaled_on_the_device(data):
    pixels, Y = bytes_of(data[0]), data[1]
    rows = to_device(np.ascontiguousarray(pixels.T))
    moved = datasets.dataset.apply(datasets.dataset.Preprocessing(scale=255.0), rows, "float32")
    host = HostColumns(np.ascontiguousarray(pixels.T), np.dtype("float32"), scale=255.0)
    resident = fitted(moved, to_device(Y, "float32"), "float32")
    check_same(fitted(host, Y, "float32"), resident)


@pytest.mark.usefixtures("cupy")
def test_the_validation_set_may_be_a_share_or_data_on_either_side(data):
    X, Y = data
    X_moved, Y_moved = map(to_device, data)
    watched, watched_moved = (X[:, :9], Y[:, :9]), (X_moved[:, :9], Y_moved[:, :9])
    for patience in (None, 1):
        options = {"epochs": 12, "learning_rate": 1.0, "patience": patience}
        resident = fitted(X_moved, Y_moved, validation=0.2, **options)
        check_same(fitted(X, Y, validation=0.2, **options), resident)
        resident = fitted(X_moved, Y_moved, validation=watched_moved, **options)
        check_same(fitted(X, Y, validation=watched, **options), resident)
        check_same(fitted(X, Y, validation=watched_moved, **options), resident)
        check_same(fitted(X_moved, Y_moved, validation=watched, **options), resident)


@pytest.mark.usefixtures("cupy")
def test_costs_of_all_the_data_are_added_up_from_chunks(data, monkeypatch):
    resident = fitted(*map(to_device, data), net=a_net(l2=0.3), validation=0.3)
    numbers = FEATURES + 2 * (5 + 4 + 3)
    for examples in (1, 5, 16):
        monkeypatch.setattr(streaming, "CHUNK_BYTES", examples * numbers * 8)
        weights, history = fitted(*data, net=a_net(l2=0.3), validation=0.3)
        np.testing.assert_allclose(weights, resident[0], rtol=1e-12, atol=1e-14)
        assert history.final_cost == pytest.approx(resident[1].final_cost, rel=1e-13)
        np.testing.assert_allclose(
            history.validation_costs, resident[1].validation_costs, rtol=1e-13
        )


@pytest.mark.usefixtures("cupy")
def test_no_epochs_leave_the_weights_and_have_a_cost(data):
    streamed = fitted(*data, epochs=0)
    check_same(streamed, fitted(*map(to_device, data), epochs=0))
    np.testing.assert_array_equal(
        streamed[0], to_host(a_net().init("he", seed=1, dtype="float64").flat)
    )


@pytest.mark.usefixtures("cupy")
def test_predictions_of_data_on_the_host_are_those_of_data_on_the_device(data, monkeypatch):
    X, _ = data
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 7 * 8 * (FEATURES + 24))
    host = HostColumns.of(X, np.dtype("float64"))
    for net in (a_net(), Network([FEATURES, 1]), Network([FEATURES, 2], output="linear")):
        params = net.init("he", dtype="float64")
        expected = to_host(net.predict(params, to_device(X)))
        streamed = streaming.predict(net, params, host)
        np.testing.assert_allclose(streamed, expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(
            to_host(streaming.predict(net, params, to_device(X))), expected
        )
        with accelnn.use("numpy"):
            params = net.init("he")
            np.testing.assert_array_equal(
                streaming.predict(net, params, host), net.predict(params, X)
            )


def test_the_host_trains_on_host_columns_as_on_arrays(data):
    host = HostColumns.of(data[0], np.dtype("float64"))
    np.testing.assert_array_equal(fitted(host, data[1])[0], fitted(*data)[0])


# --------------------------------------------------------------------------------------------
# memory, threads and streams


def test_the_device_never_holds_all_of_the_data(double, random, monkeypatch):
    m, batch_size = 3000, 16
    X, Y = random.normal(size=(m, 40)).T, random.integers(0, 2, (1, m))
    allocated, moved = [], []
    for name in ("empty", "zeros"):
        real = getattr(double, name)

        def allocate(*args, real=real, **kwargs):
            array = real(*args, **kwargs)
            allocated.append(array.nbytes)
            return array

        monkeypatch.setattr(double, name, allocate, raising=False)
    real_asarray = double.asarray

    def asarray(array, dtype=None):
        moved.append(np.size(array) if isinstance(array, np.ndarray) else 0)
        return real_asarray(array, dtype)

    net = Network([40, 3, 1])
    params = net.init()
    monkeypatch.setattr(double, "asarray", asarray)
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 100 * 48 * 4)
    accelnn.fit(
        net, params, X, Y, epochs=2, learning_rate=0.1, batch_size=batch_size, validation=0.3
    )
    assert max(allocated) == 100 * 40 * 4  # a chunk
    assert sum(moved) == 0


def test_the_host_never_copies_all_of_the_data(double, random, monkeypatch):
    del double
    monkeypatch.setattr(columns, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 1 << 18)
    m = 40_000
    stored, Y = random.normal(size=(m, 100)), random.integers(0, 2, (1, m))
    net = Network([100, 3, 1])
    params = net.init(dtype="float32")
    for X in (stored.T, np.ascontiguousarray(stored.T), stored.T.astype("float32", order="C")):
        tracemalloc.start()
        try:
            accelnn.fit(
                net, params, X, Y, epochs=1, learning_rate=0.1, batch_size=50, validation=0.2
            )
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < X.nbytes / 3


@pytest.mark.usefixtures("double")
def test_bytes_are_not_searched_for_nan_and_infinity(data, monkeypatch):
    read, calls = HostColumns.read, []
    monkeypatch.setattr(HostColumns, "read", lambda *args: calls.append(args) or read(*args))
    net = Network([FEATURES, 3], output="linear")
    fitted(bytes_of(data[0]), data[1].astype(np.int8), net=net, learning_rate=1e-5)
    assert not calls


def test_columns_are_sent_as_they_are_stored_unless_the_floats_are_smaller():
    for stored, dtype, wire in [
        ("uint8", "float32", "uint8"),
        ("bool", "float64", "bool"),
        ("float32", "float64", "float32"),
        ("float64", "float32", "float32"),
        ("int64", "float32", "float32"),
        (">f4", "float32", "float32"),
        (">i2", "float32", "int16"),
    ]:
        host = HostColumns(np.zeros((3, 2), stored), np.dtype(dtype))
        assert host.wire == np.dtype(wire), stored
        assert host.wire.isnative, stored


def test_a_batch_is_gathered_two_ahead_and_sent_one_ahead(double, monkeypatch):
    done = []
    for name in ("gather", "send", "receive"):
        real = getattr(streaming.Slot, name)

        def step(slot, *args, name=name, real=real):
            done.append(name)
            return real(slot, *args)

        monkeypatch.setattr(streaming.Slot, name, step)
    host = HostColumns(np.arange(12.0).reshape(6, 2), np.dtype("float64"))
    parts = ((None, streaming.part_of([host], column)) for column in np.split(np.arange(6), 6))
    batch = (arrays for _, arrays in streaming.stream([host], parts, 1, double))
    (first,) = next(batch)
    np.testing.assert_array_equal(to_host(first), [[0.0], [1.0]])
    assert done == ["gather", "gather", "send", "gather", "send", "receive"]
    del done[:]
    next(batch)
    assert done == ["gather", "send", "receive"]
    assert [to_host(one).ravel().tolist() for (one,) in batch] == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert nothing_is_left()


def test_large_batches_are_gathered_by_several_threads(double, random, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 64)
    monkeypatch.setattr(streaming, "THREADS", 3)
    rows = random.normal(size=(100, 4))
    host = HostColumns(rows, np.dtype("float64"))
    order = random.permutation(100)
    parts = [(None, streaming.part_of([host], columns)) for columns in np.split(order, [37])]
    batch = [to_host(X) for _, (X,) in streaming.stream([host], parts, 63, double)]
    np.testing.assert_array_equal(np.concatenate(batch, axis=1), rows[order].T)
    assert list(streaming._pieces(5, 8)) == [(0, 5)]
    assert list(streaming._pieces(10, 64)) == [(0, 3), (3, 6), (6, 10)]


WAITS = {
    "the device for a copy": ("wait_event", lambda stream: stream.at_once),
    "a copy for the device": ("wait_event", lambda stream: not stream.at_once),
    "the host for a copy": ("synchronize", lambda _event: True),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wait", WAITS)
def test_the_double_notices_a_missing_wait(data, monkeypatch, wait):
    name, forgets = WAITS[wait]
    kind = streams_double.Stream if name == "wait_event" else streams_double.Event
    real = getattr(kind, name)
    monkeypatch.setattr(
        kind, name, lambda self, *args: None if forgets(self) else real(self, *args)
    )
    with pytest.raises(streams_double.Race):
        fitted(*data)


@pytest.mark.usefixtures("double")
def test_the_double_has_no_new_data_before_a_wait(data, monkeypatch):
    monkeypatch.setattr(streams_double, "use", lambda _array: None)
    monkeypatch.setattr(streams_double.Stream, "knows", lambda *_: True)
    wait_event = streams_double.Stream.wait_event
    monkeypatch.setattr(
        streams_double.Stream,
        "wait_event",
        lambda self, event: None if self.at_once else wait_event(self, event),
    )
    with pytest.warns(RuntimeWarning, match="diverged"):
        weights, _ = fitted(*data)
    assert np.isnan(weights).all()


def test_without_pinned_memory_a_warning_is_given_and_data_is_streamed(double, data, monkeypatch):
    resident = fitted(*map(to_device, data))

    def alloc_pinned_memory(_size):
        raise double.cuda.runtime.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(double.cuda, "alloc_pinned_memory", alloc_pinned_memory)
    with pytest.warns(RuntimeWarning, match=r"MiB of the host.* page-locked \(cudaErrorMemoryA"):
        check_same(fitted(*data), resident)


# --------------------------------------------------------------------------------------------
# no resource is left over


@pytest.mark.usefixtures("double")
def test_nothing_is_left_when_a_training_ends(data):
    fitted(*data, validation=0.2)
    assert nothing_is_left()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_nothing_is_left_if_a_callback_raises(data, error):
    def stop(now):
        if now.epoch == 2:
            raise error

    with pytest.raises(error) as ended:
        fitted(*data, callbacks=[stop], validation=0.2)
    assert nothing_is_left()  # although the traceback keeps the frames
    assert ended.traceback


@pytest.mark.usefixtures("double")
def test_nothing_is_left_if_the_data_cannot_be_read(data, monkeypatch):
    gather, calls = HostColumns.gather, []

    def failing(self, columns, out):
        calls.append(threading.current_thread())
        if len(calls) == 30:
            raise OSError("the disk is gone")
        gather(self, columns, out)

    monkeypatch.setattr(HostColumns, "gather", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        fitted(*data)
    assert len(calls) >= 30
    assert threading.main_thread() not in calls
    assert nothing_is_left()


@pytest.mark.usefixtures("double")
def test_nothing_is_left_if_waiting_for_a_batch_is_interrupted(data, monkeypatch):
    send, calls = streaming.Slot.send, []

    def interrupted(self, upload):
        calls.append(1)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return send(self, upload)

    monkeypatch.setattr(streaming.Slot, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(*data)
    assert nothing_is_left()


# --------------------------------------------------------------------------------------------
# refusals


def _with(array, value):
    array = array.copy()
    array[0, 40] = value
    return array


BAD_DATA = {
    "NaN in X": (lambda X, Y: (_with(X, np.nan), Y), "X has 1 NaN or infinite.* among 318"),
    "too large for float32": (lambda X, Y: (_with(X, 1e300), Y), "X has 1 NaN or infinite"),
    "NaN in Y": (lambda X, Y: (X, _with(Y, np.nan)), "Y has 1 NaN or infinite"),
    "a label of 2": (lambda X, Y: (X, _with(Y, 2)), r"labels Y in 0\.\.1.*got 0\.\.2"),
    "a label of -1": (lambda X, Y: (X, _with(Y, -1)), r"labels Y in 0\.\.1.*got -1\.\.1"),
    "no class": (lambda X, Y: (X, Y * 0), "columns of Y that sum to 1"),
    "no examples": (lambda X, Y: (X[:, :0], Y[:, :0]), "at least one example"),
    "rows as examples": (lambda X, Y: (X.T, Y), "pass X.T"),
    "labels that are no integers": (lambda X, Y: (X, Y[0]), "expected integer labels"),
    "one label too few": (lambda X, Y: (X, Y[:, 1:]), r"Y of shape \(3, 53\).*got \(3, 52\)"),
}


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_on_the_host_is_refused_before_training(data, monkeypatch, case):
    spoil, message = BAD_DATA[case]
    for block in (1, 1 << 21):
        monkeypatch.setattr(columns, "BLOCK_BYTES", block)
        with pytest.raises(ValueError, match=message):
            fitted(*spoil(*data), "float32")
        with pytest.raises(ValueError, match=f"validation: .*{message}"):
            fitted(*data, "float32", validation=spoil(*data))


@pytest.mark.usefixtures("cupy")
def test_words_on_the_host_are_refused(data):
    X, Y = data
    with pytest.raises(TypeError, match="X as an array of real numbers, got dtype object"):
        fitted(X.astype(str).astype(object) + "x", Y, "float32")


@pytest.mark.usefixtures("cupy")
def test_labels_on_the_host_are_streamed_as_one_hot_columns(data):
    X, Y = data
    labels = Y.argmax(axis=0)
    Y = accelnn.one_hot(labels, len(Y))
    np.testing.assert_array_equal(to_host(fitted(X, labels)[0].flat), to_host(fitted(X, Y)[0].flat))


@pytest.mark.usefixtures("cupy")
def test_labels_of_one_sigmoid_are_streamed_as_they_are(data):
    net, X = accelnn.Network([len(data[0]), 1]), data[0]
    options = {"epochs": 3, "learning_rate": 0.1, "batch_size": 8}
    soft = np.linspace(0.1, 0.9, X.shape[1])
    streamed, _ = accelnn.fit(net, net.init(), X, soft, **options)
    resident, _ = accelnn.fit(net, net.init(), *map(to_device, (X, soft)), **options)
    np.testing.assert_allclose(to_host(streamed.flat), to_host(resident.flat), rtol=1e-5)
    for wrong in (np.full(X.shape[1], 256), np.full(X.shape[1], -1)):
        with pytest.raises(ValueError, match=r"labels Y in 0\.\.1.*got (256|-1)"):
            accelnn.fit(net, net.init(), X, wrong, **options)


@pytest.mark.usefixtures("cupy")
def test_data_on_the_host_needs_a_batch_size(data):
    message = "X and Y are on the host, .* accelnn.to_device; or give fit a batch_size"
    with pytest.raises(TypeError, match=message):
        fitted(*data, batch_size=None)
    with pytest.raises(TypeError, match=f"validation: {message}"):
        fitted(*map(to_device, data), batch_size=None, validation=data)


@pytest.mark.usefixtures("cupy")
def test_host_and_device_do_not_mix_otherwise(data):
    net, (X, Y) = a_net(), data
    params, host = net.init(), HostColumns.of(X, np.dtype("float32"))
    for mixed in ((to_device(X), Y), (X, to_device(Y)), (host, to_device(Y))):
        with pytest.raises(TypeError, match="host and on the device are mixed"):
            fitted(*mixed)
    for given in (X, host):
        with pytest.raises(TypeError, match="mixed"):
            net.predict(params, given)
        with pytest.raises(TypeError, match="mixed"):
            net.cost(params, given, Y)
        with pytest.raises(TypeError, match="mixed"):
            net.gradients(params, given, Y)
    with accelnn.use("numpy"):
        host_params = net.init()
    with pytest.raises(TypeError, match="mixed"):
        accelnn.fit(net, host_params, *map(to_device, data), epochs=1, batch_size=8)


@pytest.mark.usefixtures("cupy")
def test_auto_picks_direct_and_the_other_solvers_refuse(data):
    _, history = fitted(*data, solver="auto")
    assert (history.solver, history.reason) == ("direct", "streamed from the host")
    refusals = dict.fromkeys(("gram", "gram-jitted"), "sample space needs full batches")
    for solver, reason in {"jitted": "on the host.*'direct' streams", **refusals}.items():
        with pytest.raises(ValueError, match=f"{solver}.*{reason}"):
            fitted(*data, solver=solver)


@pytest.mark.usefixtures("cupy")
def test_products_of_bfloat16_are_not_streamed(data):
    with pytest.raises(ValueError, match=r"no solver can.*direct: .*bfloat16.*on the host"):
        fitted(*data, "float32", solver="auto", precision="bfloat16")


# --------------------------------------------------------------------------------------------
# columns that stay on the host


def test_columns_on_the_host_are_an_array_to_numpy(random):
    rows = random.integers(0, 256, (5, 3)).astype(np.uint8)
    X = HostColumns(rows, np.dtype("float32"), scale=255.0)
    assert (X.shape, X.ndim, X.size) == ((3, 5), 2, 15)
    expected = rows.T / np.float32(255)
    np.testing.assert_array_equal(np.asarray(X), expected)
    assert np.asarray(X).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(X, np.float64), rows.T / 255)
    np.testing.assert_array_equal(to_host(X), expected)
    for key in (slice(1, 4), slice(None, None, -2), [4, 0, 0], rows[:, 0] > 100):
        part = X[:, np.asarray(key) if isinstance(key, list) else key]
        assert np.shares_memory(part.rows, rows)
        assert part.shape == expected[:, key].shape
        np.testing.assert_array_equal(np.asarray(part), expected[:, key])
        np.testing.assert_array_equal(np.asarray(part[:, :1]), expected[:, key][:, :1])
    with pytest.raises(ValueError, match="copy it"):
        X.__array__(copy=False)
    for key in (0, (0, 1), (slice(2), 1), (slice(None), 1)):
        with pytest.raises(IndexError, match=r"expected X\[:, columns\]"):
            X[key]


def test_a_split_of_columns_on_the_host_copies_none(data):
    hosts = [HostColumns.of(a, np.dtype("float64")) for a in data]
    for parts, expected in zip(
        batches.split(hosts, 0.3, 5), batches.split(data, 0.3, 5), strict=True
    ):
        for part, array in zip(parts, expected, strict=True):
            assert part.rows.base is not None
            np.testing.assert_array_equal(np.asarray(part), array)


# --------------------------------------------------------------------------------------------
# data sets


def arrays(data):
    return data.X_train, data.Y_train, data.X_test, data.Y_test


@pytest.fixture
def small_device(double, monkeypatch):
    """The device double with 1 MiB of free memory."""
    monkeypatch.setattr(double.cuda.runtime, "memGetInfo", lambda: (2**20, 2**30))
    return double


@pytest.mark.usefixtures("small_device")
def test_a_data_set_too_large_for_the_device_stays_on_the_host():
    message = r"takes 0.0177 GiB in float32, for which device double has 0.000488 GiB \(50% of"
    with pytest.warns(RuntimeWarning, match=f"{message}.*stays on the host.*streamed"):
        digits = datasets.load_digits()
    with accelnn.use("numpy"):
        expected = datasets.load_digits(dtype="float32")
    for array, whole in zip(arrays(digits), arrays(expected), strict=True):
        assert isinstance(array, HostColumns)
        assert array.wire == np.uint8
        one_hot = accelnn.one_hot(whole, 10) if whole.ndim == 1 else whole
        np.testing.assert_array_equal(np.asarray(array), one_hot)
    assert digits.too_large
    assert (digits.preprocessing.image_shape, digits.preprocessing.scale) == ((28, 28, 1), 255.0)


@pytest.mark.usefixtures("small_device")
def test_a_table_too_large_for_the_device_stays_on_the_host(tmp_path, random):
    rows = random.normal(size=(600, 300))
    names = np.where(rows[:, 0] > 0, "yes", "no")
    table = [",".join([*map(str, range(300)), "class"])]
    table += [
        ",".join([*map(repr, map(float, row)), name]) for row, name in zip(rows, names, strict=True)
    ]
    (tmp_path / "table.csv").write_text("\n".join(table))
    with pytest.warns(RuntimeWarning, match="stays on the host"):
        mine = datasets.load_csv(tmp_path / "table.csv", "class")
    with accelnn.use("numpy"):
        expected = datasets.load_csv(tmp_path / "table.csv", "class", dtype="float32")
    for array, whole in zip(arrays(mine), arrays(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(array), whole)
    assert mine.X_train.rows.flags.c_contiguous


def test_a_data_set_that_fits_is_on_the_device(double, monkeypatch):
    # in the freed memory that CuPy keeps
    monkeypatch.setattr(double.cuda.runtime, "memGetInfo", lambda: (2**20, 2**30))
    pool = types.SimpleNamespace(free_bytes=lambda: 2**30)
    monkeypatch.setattr(double, "get_default_memory_pool", lambda: pool)
    digits = datasets.load_digits()
    assert digits.too_large is None
    assert backend.backend_of(*arrays(digits)).name == "cupy"


@shows_too_large_data
def test_a_recipe_streams_data_that_is_too_large_for_the_device(
    double, monkeypatch, capsys, tmp_path
):
    argv = ["digits-minibatch", "--backend", "cupy", "--epochs", "2", "--validation", "0.1"]
    argv += ["--seed", "3", "--solver", "direct", "--json", str(tmp_path / "result.json")]
    assert train.main(argv) == 0
    resident = (tmp_path / "result.json").read_text()
    monkeypatch.setattr(double.cuda.runtime, "memGetInfo", lambda: (2**20, 2**30))
    assert train.main(argv) == 0
    streamed = (tmp_path / "result.json").read_text()
    without_time = [line for line in streamed.splitlines() if "seconds" not in line]
    assert without_time == [line for line in resident.splitlines() if "seconds" not in line]
    assert "warning: the data takes" in capsys.readouterr().err
    assert nothing_is_left()


@shows_too_large_data
@pytest.mark.usefixtures("small_device")
def test_a_recipe_of_full_batches_says_what_fits_and_what_to_do(capsys):
    for more, advice in (([], "--batch-size N"), (["--dtype", "float64"], "or --dtype float32")):
        assert train.main(["digits", "--backend", "cupy", *more]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: the data takes")
        assert "GiB free" in error
        assert error.endswith(advice)


@shows_too_large_data
@pytest.mark.usefixtures("small_device")
def test_pictures_of_streamed_data_are_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    argv = ["digits-minibatch", "--backend", "cupy", "--epochs", "1", "--show", "3"]
    assert train.main([*argv, "--plot", str(tmp_path / "digits.png")]) == 0
    assert "picture 3: " in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        *("digits.png", "digits-misclassified.png", "digits-examples.png", "digits-hidden.png"),
        "digits-picture-3.png",
    }


@pytest.mark.usefixtures("small_device")
def test_streamed_digits_are_scored():
    with pytest.warns(RuntimeWarning, match="stays on the host"):
        digits = datasets.load_digits()
    net = Network([784, 20, 10], output="softmax")
    params, _ = accelnn.fit(
        net, net.init("he"), digits.X_train, digits.Y_train,
        epochs=3, learning_rate=0.5, batch_size=32,
    )  # fmt: skip
    predictions = streaming.predict(net, params, digits.X_test)
    assert accuracy(predictions, digits.Y_test) > 0.8
    assert labels(digits.Y_test).shape == (1000,)


def write_images(folder):
    from PIL import Image

    for name, grey in (("dark", 10), ("light", 240)):
        (folder / name).mkdir()
        for i in range(5):
            Image.new("RGB", (9, 7), (grey + i,) * 3).save(folder / name / f"{i}.png")


def write_hdf5(folder):
    import h5py

    with h5py.File(folder / "mine.h5", "w") as file:
        file["train_set_x"] = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)
        file["train_set_y"] = np.arange(10) % 3
        file["list_classes"] = np.array([b"a", b"b", b"c"])


def write_csv(folder):
    lines = [f"{i},{i**2},{-i},{'yes' if i % 3 else 'no'}" for i in range(10)]
    (folder / "mine.csv").write_text("\n".join(["one,other,third,class", *lines]))


def write_football(folder):
    import scipy.io

    X, y = np.arange(20.0).reshape(10, 2), np.arange(10).reshape(10, 1) % 2
    scipy.io.savemat(folder / "football.mat", {"X": X, "y": y, "Xval": X[:4], "yval": y[:4]})


# how to write the files, how to load them, and whether they contain bytes
LOADERS = {
    "drawn cats": (lambda _folder: None, lambda _folder: datasets.load_cats(), True),
    "digits": (lambda _folder: None, lambda _folder: datasets.load_digits(), True),
    "flower": (lambda _folder: None, lambda _folder: datasets.flower(), False),
    "blobs": (lambda _folder: None, lambda _folder: datasets.blobs(classes=4, m=40), False),
    "football": (write_football, datasets.load_football, False),
    "images": (write_images, datasets.load_images, True),
    "HDF5": (write_hdf5, lambda folder: datasets.load_hdf5(folder / "mine.h5"), True),
    "CSV": (write_csv, lambda folder: datasets.load_csv(folder / "mine.csv", "class"), False),
}


@pytest.mark.filterwarnings("ignore::accelnn.datasets.StandInWarning")
@pytest.mark.parametrize("name", LOADERS)
def test_data_is_uploaded_once_as_it_is_stored(double, monkeypatch, name, tmp_path):
    write, load, of_bytes = LOADERS[name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCELNN_DATA", raising=False)
    write(tmp_path)
    sent, real = [], double.asarray

    def asarray(array, dtype=None):
        if isinstance(array, np.ndarray):
            assert dtype is None or dtype == array.dtype  # CuPy would convert it on the host
            sent.append(array)
        return real(array, dtype)

    monkeypatch.setattr(double, "asarray", asarray)
    data = load(tmp_path)
    assert not data.too_large
    features = data.X_train.shape[0]
    sets = [X for X in (data.X_train, data.X_test, data.X_validation) if X is not None]
    shapes = [array.shape for array in sent if array.shape != (features,)]
    expected = [shape for X in sets for shape in ((X.shape[1], features), (X.shape[1],))]
    assert sorted(shapes) == sorted(expected)
    rows = [array for array in sent if array.ndim == 2]
    assert all((array.dtype == np.uint8) == of_bytes for array in rows)
    for array in arrays(data):
        assert backend.backend_of(array).name == "cupy"
        assert np.isfinite(to_host(array)).all()


@pytest.mark.usefixtures("double")
def test_data_that_stays_on_the_host_can_be_moved_to_the_device(random):
    rows = random.integers(0, 256, (5, 3)).astype(np.uint8)
    moved = to_device(HostColumns(rows, np.dtype("float32"), scale=255.0))
    np.testing.assert_array_equal(to_host(moved), rows.T / np.float32(255))
