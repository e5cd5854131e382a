"""Accuracy, confusion matrix and the report of each class, against scikit-learn's and by hand."""

import itertools
import warnings

import numpy as np
import pytest
from helpers.core import refused
from hypothesis import given
from hypothesis import strategies as st

import accelnn
from accelnn.backend import to_device
from accelnn.scores import ClassReport, accuracy, confusion_matrix, labels, report

TRUE = np.array([0, 0, 0, 1, 1, 2])
SAID = np.array([0, 0, 1, 1, 2, 1])
CONFUSION = [[2, 1, 0], [0, 1, 1], [0, 1, 0]]


@st.composite
def answers(draw):
    """How many classes, and what was said and true of some examples."""
    n = draw(st.integers(2, 6))
    m = draw(st.integers(1, 40))
    label = st.lists(st.integers(0, n - 1), min_size=m, max_size=m).map(np.array)
    return n, draw(label), draw(label)


@pytest.mark.usefixtures("there")
def test_labels_are_the_class_indices_on_the_host():
    for Y in ([[0.0, 1.0, 1.0]], [0, 1, 1], [[0.9, 0.2, 0.4], [0.1, 0.8, 0.6]]):
        indices = labels(to_device(np.array(Y)))
        assert type(indices) is np.ndarray
        assert indices.dtype == np.int64
        assert indices.tolist() == [0, 1, 1]


@given(answers())
def test_labels_undo_one_hot(drawn):
    n, _, true = drawn
    np.testing.assert_array_equal(labels(accelnn.one_hot(true, n)), true)


def test_other_shapes_and_values_are_no_labels():
    for Y, message in (
        (np.ones((2, 3, 4)), r"\(m,\), \(1, m\) or \(n, m\), got \(2, 3, 4\)"),
        (np.ones((0, 3)), r"got \(0, 3\)"),
        (np.float64(1), r"got \(\)"),
        (np.array([[0.3, 1.0]]), "0, 1, 2, ..., got 0.3"),
        (np.array([1, -1]), "got -1"),
        (np.array([np.nan]), "got nan"),
        (np.array([np.inf, 0]), "got inf"),
        (np.array([2**63 + 1], np.uint64), "got 9.2"),
    ):
        with refused(message):
            labels(Y)


@given(answers())
def test_every_form_of_labels_scores_the_same(drawn):
    n, said, true = drawn

    def forms(labels):
        columns = np.eye(n)[:, labels]
        yield from (labels, labels.tolist(), labels.astype(">i4"), labels.astype("f2"))
        yield from (labels[None], labels[None] * 1.0, labels.astype("u1")[None])
        yield from ([labels > 0, labels[None] > 0] if n == 2 else [])
        if labels.size > 1:  # a column alone could be labels
            yield from (columns, columns > 0, columns.astype(int), 0.6 * columns + 0.4 / n)
            yield np.asfortranarray(columns)[:, ::-1][:, ::-1]

    expected = np.zeros((n, n), int)
    np.add.at(expected, (true, said), 1)
    for ours, theirs in itertools.product(forms(said), forms(true)):
        case = f"{np.shape(ours)} {np.shape(theirs)}"
        assert accuracy(ours, theirs) == (said == true).mean(), case
        confusion = confusion_matrix(ours, theirs, np.uint8(n))
        np.testing.assert_array_equal(confusion, expected, case)
        assert report(ours, theirs, "abcdef"[:n])[-2].precision == (said == true).mean(), case


def test_shapes_and_values_with_two_meanings_are_refused():
    column = np.array([[0], [1], [0]])
    for said, true, message in (
        (column, column, r"labels of shape \(m,\), got \(3, 1\): pass Y.ravel\(\)"),
        (np.array([0, 1, 0]), column, r"labels of shape \(m,\), got \(3, 1\)"),
        (np.array([[0, 1, 0]]), column, r"labels of shape \(m,\), got \(3, 1\)"),
        (column * 2, [1], r"one-hot columns or probabilities, got 0\.\.2"),
        ([1], np.array([[1], [1]]), r"got 1\.\.1 in shape \(2, 1\)"),
        ([0, 1], [[1, 0], [1, 0]], r"got 0\.\.1 in shape \(2, 2\): pass Y\.T"),
        ([0, 1], [[np.nan, 0], [0.1, 1]], "got nan..nan"),
        ([[0.2, 0.9]], [0, 1], "0, 1, 2, ..., got 0.2"),
    ):
        with refused(message):
            accuracy(said, true)
    for Y in (np.array([1j]), np.array(["a"]), np.array([1, None]), np.array([1], "M8[s]")):
        with refused("labels as an array of real numbers", TypeError):
            labels(Y)
    with refused("labels without masked values", TypeError):
        labels(np.ma.array([0, 1], mask=[0, 1]))


def test_accuracy():
    assert accuracy([[0, 1, 1, 0]], [[0, 1, 0, 0]]) == 0.75
    assert accuracy(np.array([2, 0]), accelnn.one_hot([2, 1], 3)) == 0.5
    assert accuracy(np.array([0, 1, 1, 0]), np.array([[0, 1, 1, 0]])) == 1.0  # of other shapes
    with refused("got 3 predictions and 2 labels"):
        accuracy(np.array([1, 0, 1]), np.ones((1, 2)))
    with refused("at least one"):
        accuracy(np.ones((1, 0)), np.ones((1, 0)))


@pytest.mark.usefixtures("there")
def test_confusion_has_the_true_classes_as_rows():
    one_hot = to_device(accelnn.one_hot(TRUE, 3))
    confusion = confusion_matrix(to_device(SAID), one_hot)
    assert type(confusion) is np.ndarray
    assert confusion.dtype == np.int64
    assert confusion.tolist() == CONFUSION
    said, true = to_device(np.array([[1, 1, 0]])), to_device(np.array([[0.0, 1.0, 0.0]]))
    assert confusion_matrix(said, true).tolist() == [[1, 1], [0, 1]]


def test_confusion_has_a_row_for_every_class():
    assert confusion_matrix([0], [0]).tolist() == [[1, 0], [0, 0]]
    assert confusion_matrix([0], accelnn.one_hot([1], 4)).shape == (4, 4)
    assert confusion_matrix([0], [[0], [1], [0]]).shape == (3, 3)
    assert confusion_matrix([0], [1], n_classes=5).shape == (5, 5)
    for said, true, n_classes, message in (
        ([0, 1], [0], None, "got 2 predictions and 1 labels"),
        ([], [], None, "at least one example"),
        ([0, 3], [0, 1], 3, r"classes in 0..2, got class 3"),
    ):
        with refused(message):
            confusion_matrix(said, true, n_classes)


@pytest.mark.usefixtures("there")
def test_report_by_hand():
    assert report(to_device(SAID), to_device(accelnn.one_hot(TRUE, 3)), ("a", "b", "c")) == [
        ClassReport("a", 1.0, 2 / 3, 0.8, 3),
        ClassReport("b", 1 / 3, 0.5, 0.4, 2),
        ClassReport("c", 0.0, 0.0, 0.0, 1),
        ClassReport("accuracy", 0.5, 0.5, 0.5, 6),
        ("macro average", *map(pytest.approx, (4 / 9, 7 / 18, 0.4)), 6),
    ]
    # a class never seen nor said
    assert report([0, 0], [0, 0], ("a", "b"))[1] == ClassReport("b", 0.0, 0.0, 0.0, 0)


@pytest.fixture(scope="module")
def metrics():
    with warnings.catch_warnings():  # what it warns of while it is imported is its own affair
        warnings.simplefilter("ignore")
        return pytest.importorskip("sklearn.metrics")


@given(drawn=answers())
def test_scores_are_scikit_learns(metrics, drawn):
    n, said, true = drawn
    names = [f"class {k}" for k in range(n)]
    everything = np.arange(n)
    np.testing.assert_array_equal(
        confusion_matrix(said, true, n), metrics.confusion_matrix(true, said, labels=everything)
    )
    assert accuracy(said, true) == pytest.approx(metrics.accuracy_score(true, said))
    # output_dict keeps the shares as they are, unrounded
    theirs = metrics.classification_report(
        true, said, labels=everything, target_names=names, output_dict=True, zero_division=0
    )
    *ours, overall, macro = report(said, true, names)
    for row, expected in zip(
        [*ours, macro], [*(theirs[name] for name in names), theirs["macro avg"]], strict=True
    ):
        assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(
            [expected[key] for key in ("precision", "recall", "f1-score", "support")], abs=1e-15
        )
    assert overall.recall == pytest.approx(theirs["accuracy"])
