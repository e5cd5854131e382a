"""Mini-batches: the order of the examples, their gathering, and the validation split."""

import itertools
import tracemalloc

import numpy as np
import pytest
from helpers.core import refused
from hypothesis import given
from hypothesis import strategies as st

import accelnn
from accelnn import batches
from accelnn.backend import to_device, to_host

sizes = st.integers(1, 300)
seeds = st.integers(0, 2**32)


def first(m, seed, epochs=4):
    return list(itertools.islice(batches.orders(m, seed), epochs))


@given(m=sizes, seed=seeds)
def test_each_order_visits_every_example_once_and_follows_the_seed(m, seed):
    for order in first(m, seed):
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(m))
    np.testing.assert_array_equal(first(m, seed), first(m, seed))


def test_orders_depend_on_the_epoch_the_seed_and_the_number_of_examples():
    for m in (50, 1000):
        drawn = [*first(m, 0), *first(m, 1)]
        for one, other in itertools.combinations(drawn, 2):
            assert not np.array_equal(one, other)
        longer = first(m + 1, 0)[0]
        assert not np.array_equal(longer[longer < m], drawn[0])


def test_each_place_in_the_order_is_equally_likely():
    m, epochs = 6, 6000
    counts = np.zeros((m, m))
    for order in first(m, seed=3, epochs=epochs):
        counts[np.arange(m), order] += 1
    deviation = np.sqrt(epochs / m * (1 - 1 / m))
    assert np.abs(counts - epochs / m).max() < 4.5 * deviation  # 36 counts, not independent


@given(m=sizes, batch_size=st.integers(1, 400))
def test_sizes_of_batches_add_up_and_only_the_last_may_be_short(m, batch_size):
    *full, last = batches.sizes(m, batch_size)
    assert set(full) <= {batch_size}
    assert 1 <= last <= batch_size
    assert sum(full) + last == m


def test_counts_of_any_integer_type_train_the_same():
    X = np.random.default_rng(0).normal(size=(2, 300))
    net, Y = accelnn.Network([2, 1]), X[0] > 0
    counts = {"epochs": 120, "batch_size": 100, "seed": 3, "record_every": 90, "patience": 101}
    expected = None
    for kind in (int, np.uint8, np.int8, np.uint16):
        given = {name: kind(n) for name, n in counts.items()}
        params, history = accelnn.fit(
            net, net.init(), X, Y, **given, validation=0.2, learning_rate=0.1, solver="direct"
        )
        result = params.flat.tolist(), history.costs, history.epochs, history.batch_size
        expected = expected or result
        assert result == expected, kind
        record, evaluations = kind(6), kind(10)
        _, history = accelnn.minimize(
            net, net.init(), X, Y, evaluations=evaluations, record_every=record
        )
        assert history.epochs == [0, 6], kind
    for kind in (bool, np.bool_, float):
        for name in counts:
            with refused(f"{name} as an integer"):
                accelnn.fit(net, net.init(), X, Y, **{**counts, name: kind(1)}, learning_rate=0.1)


@pytest.mark.usefixtures("there")
def test_examples_first_has_the_examples_in_contiguous_rows(random):
    X = random.normal(size=(5, 8))
    rows = batches.examples_first(to_device(X))
    np.testing.assert_array_equal(to_host(rows), X.T)
    assert rows.flags.c_contiguous


def test_examples_first_is_a_view_if_the_rows_are_contiguous(random):
    rows = random.normal(size=(8, 5))
    assert np.shares_memory(batches.examples_first(rows.T), rows)
    assert not np.shares_memory(batches.examples_first(np.ascontiguousarray(rows.T)), rows)


@pytest.mark.usefixtures("there")
def test_gather_collects_rows_in_the_order_asked_for(random):
    for dtype, features in itertools.product(["float32", "float64"], [1, 2, 33]):
        rows, indices = random.normal(size=(20, features)).astype(dtype), random.permutation(20)[:7]
        out = to_device(np.full((7, features), np.nan, dtype))
        batches.gather(to_device(rows), to_device(indices), out)
        np.testing.assert_array_equal(to_host(out), rows[indices])


def test_gather_allocates_nothing(random):
    rows, indices = random.normal(size=(1000, 100)), random.permutation(1000)[:500]
    out = np.empty((500, 100))
    batches.gather(rows, indices, out)
    tracemalloc.start()
    try:
        batches.gather(rows, indices, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < out.nbytes / 10


def test_gather_on_the_device_neither_waits_nor_uploads(double, random):
    rows, indices = to_device(random.normal(size=(9, 2))), to_device(np.arange(3))
    out = to_device(np.empty((3, 2)))
    before = double.counts.synchronizations, double.counts.uploads
    batches.gather(rows, indices, out)
    assert (double.counts.synchronizations, double.counts.uploads) == before


# --------------------------------------------------------------------------------------------
# the validation split


def numbered(m):
    """X and Y whose columns hold the number of the example."""
    return np.stack([np.arange(m), -np.arange(m)]) * 1.0, np.arange(m)[None] * 10.0


def parts(*given):
    """X and Y to train on, and those held out"""
    return [part for data in batches.split(*given) for part in data]


@given(
    m=st.integers(2, 300),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=seeds,
)
def test_a_split_is_disjoint_and_complete_and_keeps_pairs(m, share, seed):
    X, Y = numbered(m)
    (X_train, Y_train), (X_held, Y_held) = batches.split((X, Y), share, seed)
    np.testing.assert_array_equal(np.sort([*X_train[0], *X_held[0]]), np.arange(m))
    for X_part, Y_part in ((X_train, Y_train), (X_held, Y_held)):
        assert X_part.shape[1] >= 1
        np.testing.assert_array_equal(X_part[0] * 10, Y_part[0])
        np.testing.assert_array_equal(X_part[0], -X_part[1])
    assert abs(X_held.shape[1] - share * m) <= 1


def test_a_split_has_its_share():
    for m, share, held_out in [(10, 0.2, 2), (10, 0.99, 9), (10, 0.01, 1), (2, 0.5, 1)]:
        (X_train, _), (X_held, _) = batches.split(numbered(m), share, 0)
        assert (X_train.shape[1], X_held.shape[1]) == (m - held_out, held_out)


@pytest.mark.usefixtures("there")
def test_a_split_follows_its_seed_and_is_the_same_on_every_backend():
    X, Y = numbered(40)
    moved = to_device(X), to_device(Y)
    one, same, other = ([to_host(part) for part in parts(moved, 0.3, seed)] for seed in (1, 1, 2))
    for part, again in zip(one, same, strict=True):
        np.testing.assert_array_equal(part, again)
    assert not np.array_equal(one[2], other[2])
    for part, on_host in zip(one, parts((X, Y), 0.3, 1), strict=True):
        np.testing.assert_array_equal(part, on_host)


def test_a_split_copies_the_data():
    X, Y = numbered(12)
    for array in (X, Y):
        array.setflags(write=False)
    for part in parts((X, Y), 0.25, 0):
        assert not np.shares_memory(part, X)
        assert not np.shares_memory(part, Y)
