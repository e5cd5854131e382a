"""Arrays of other packages: taken at the edges, without a copy if the memory can be shared."""

import functools

import numpy as np
import pytest

import accelnn
from accelnn import Network
from accelnn.backend import as_array, to_device, to_host

NET = Network([3, 4, 2], output="softmax")
X = np.random.default_rng(0).normal(size=(3, 20))
LABELS = np.arange(20) % 2


class ByArray:
    """An array with `__array__`, as of pandas."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


class ByDLPack:
    """An array with DLPack, as of PyTorch and JAX, on a device of this kind."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def torch_tensor(array):
    return pytest.importorskip("torch").from_numpy(array)


def jax_array(array):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax.numpy.asarray(array)


def pandas_frame(array):
    pandas = pytest.importorskip("pandas")
    return pandas.Series(array) if array.ndim == 1 else pandas.DataFrame(array)


def polars_frame(array):
    polars = pytest.importorskip("polars")
    return polars.Series(array) if array.ndim == 1 else polars.DataFrame(array)


MAKERS = [ByArray, ByDLPack, torch_tensor, jax_array, pandas_frame, polars_frame]


@pytest.mark.parametrize("make", MAKERS)
def test_a_training_with_them_gives_the_same_bits(make):
    params, given = NET.init(), (make(X), make(LABELS))
    options = {"epochs": 5, "learning_rate": 0.3}
    trained, history = accelnn.fit(NET, params, *given, validation=given, **options)
    expected, same = accelnn.fit(NET, params, X, LABELS, validation=(X, LABELS), **options)
    np.testing.assert_array_equal(trained.flat, expected.flat)
    assert history.validation_costs == same.validation_costs
    np.testing.assert_array_equal(NET.predict(trained, given[0]), NET.predict(trained, X))
    assert NET.cost(trained, *given) == NET.cost(trained, X, LABELS)
    assert NET.accuracy(trained, *given) == NET.accuracy(trained, X, LABELS)
    assert accelnn.minimize(NET, params, *given, evaluations=5)[1].costs


@pytest.mark.parametrize("make", [ByArray, ByDLPack, torch_tensor, jax_array])
def test_memory_on_the_host_is_shared(make):
    array = X.copy()
    given = make(array)
    for taken in (as_array(given), to_host(given), to_device(given)):
        assert np.shares_memory(taken, as_array(given))
        np.testing.assert_array_equal(taken, X)
    if make is not jax_array:  # which copies its argument
        assert np.shares_memory(as_array(given), array)


def test_an_array_that_cannot_be_shared_says_why():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"X: Tensor gives no array .*detach"):
        NET.predict(NET.init(), torch.ones(3, 2, requires_grad=True))


def test_an_array_on_a_gpu_that_cannot_be_used_is_refused(monkeypatch):
    from accelnn import backend

    reason = functools.cache(lambda _index=None: "there is no NVIDIA driver")
    monkeypatch.setattr(backend, "why_not", reason)
    with pytest.raises(TypeError, match="X is on a CUDA device, but there is no NVIDIA driver"):
        NET.predict(NET.init(), ByDLPack(X, device=(2, 0)))


def test_values_that_are_no_real_numbers_are_refused():
    masked = np.ma.array(X, mask=X > 1)
    table = np.zeros((3, 20), "f8,f8")
    kinds = (X + 0j, X.astype("m8[s]"), X.astype("M8[s]"), table, table.view(np.recarray))
    for given, message in [(masked, "without masked values: pass"), *((x, "real") for x in kinds)]:
        for ask in (
            lambda given=given: NET.predict(NET.init(), given),
            lambda given=given: NET.cost(NET.init(), given, LABELS),
            lambda given=given: accelnn.fit(NET, NET.init(), given, LABELS, epochs=1),
            lambda given=given: accelnn.fit(NET, NET.init(), X, given, epochs=1),
        ):
            with pytest.raises(TypeError, match=message):
                ask()
    with pytest.raises(TypeError, match="Y without masked values"):
        NET.cost(NET.init(), X, np.ma.array(LABELS, mask=LABELS))
    numbers = X.astype(object)
    with pytest.raises(TypeError, match=r"dtype object: if all are numbers, pass its .astype"):
        NET.predict(NET.init(), numbers)
    pandas = pytest.importorskip("pandas")
    missing = pandas.array([0, None] * 10, dtype="Int64")
    for given in (missing, pandas.Series(missing), pandas.Series([0, pandas.NA] * 10)):
        # pandas raises, or since version 3 gives NaN, which is no label
        with pytest.raises((TypeError, ValueError), match=r"Y|integer labels"):
            NET.cost(NET.init(), X, given)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_any_layout_and_type_of_numbers_gives_the_same_results():
    params = NET.init()
    halves = X.astype("f2").astype("f8")
    expected = NET.cost(params, halves, LABELS), NET.gradients(params, halves, LABELS).flat
    strided = np.zeros((6, 40))
    strided[::2, ::2] = halves
    fixed = halves.copy()
    fixed.setflags(write=False)
    unmasked = np.ma.array(halves, mask=False)
    forms = (halves.astype("f2"), halves.astype("g"), halves.astype(">f4"), np.matrix(halves))
    for given in (*forms, strided[::2, ::2], halves[:, ::-1].copy()[:, ::-1], fixed, unmasked):
        for labels in (LABELS, LABELS.astype(">u2"), np.matrix(np.eye(2)[:, LABELS])):
            got = NET.cost(params, given, labels), NET.gradients(params, given, labels).flat
            np.testing.assert_allclose(got[0], expected[0], rtol=1e-15)
            np.testing.assert_allclose(got[1], expected[1], rtol=1e-13, atol=1e-16)


@pytest.mark.usefixtures("double")
def test_arrays_of_other_packages_are_moved_to_the_device():
    moved = to_device(ByArray(X), "float32")
    assert type(moved).__module__ != "numpy"
    np.testing.assert_array_equal(to_host(moved), X.astype("float32"))


@pytest.mark.gpu
def test_tensors_on_the_gpu_are_trained_on_where_they_are():
    torch = pytest.importorskip("torch")
    accelnn.use("cupy")
    given = torch.from_numpy(X).cuda(), torch.from_numpy(LABELS).cuda()
    _, history = accelnn.fit(NET, NET.init(dtype="float64"), *given, epochs=5, learning_rate=0.3)
    assert history.backend == "cupy"
    assert as_array(given[0]).data.ptr == given[0].data_ptr()
