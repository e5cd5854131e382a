"""The tours: what they say is right, on either backend, and they notice where it is not."""

import numpy as np
import pytest

from accelnn import tours
from accelnn.tours import TOURS, Step


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", TOURS)
def test_a_tour_says_texts_and_returns_host_values(name):
    said = []
    values = TOURS[name](said.append)
    assert len(said) > 5
    assert all(isinstance(text, str) for text in said)
    assert all(isinstance(value, float | np.ndarray) for value in values.values())


@pytest.mark.parametrize("name", TOURS)
def test_a_tour_prints_where_nothing_else_is_asked(name, capsys):
    TOURS[name]()
    assert capsys.readouterr().out.count("\n") > 5


@pytest.mark.usefixtures("there")
def test_the_loop_and_the_vectorised_dot_product_agree():
    said = []
    values = TOURS["vectorization"](said.append, n=10_000)
    assert values["vectorised"] == pytest.approx(values["loop"], rel=1e-12)
    assert values["ratio"] == pytest.approx(values["loop_seconds"] / values["vectorised_seconds"])
    assert f"{values['loop']:.6f}" in said[1]


def test_calories_are_in_percent_of_each_column():
    values = TOURS["vectorization"](lambda _: None, n=10)
    np.testing.assert_allclose(values["calories"], [59, 239, 155.4, 76.9])
    np.testing.assert_allclose(values["percentage"].sum(axis=0), 100)
    assert values["percentage"][0, 0] == pytest.approx(100 * 56 / 59)
    assert values["percentage"][2, 1] == pytest.approx(100 * 135 / 239)


@pytest.mark.usefixtures("there")
def test_basics_give_the_published_values():
    values = TOURS["numpy-basics"](lambda _: None)
    np.testing.assert_allclose(values["sigmoid(a)"], [0.73105858, 0.88079708, 0.95257413], 1e-7)
    assert values["L1(yhat, y)"] == pytest.approx(1.1)
    assert values["L2(yhat, y)"] == pytest.approx(0.43)
    assert values["image2vector(image)"].shape == (18, 1)


@pytest.mark.parametrize("expected", [2, [1], [[1, 1]]])
def test_basics_notice_a_wrong_value_or_shape(monkeypatch, expected):
    steps = {"broken": (Step("x * x", {"x": 1}, expected),)}
    monkeypatch.setattr(tours, "STEPS", steps)
    with pytest.raises(ArithmeticError, match=r"x \* x gave 1, expected"):
        TOURS["numpy-basics"](lambda _: None)


@pytest.mark.usefixtures("there")
def test_gradient_checks_tell_right_from_wrong():
    said = []
    values = TOURS["gradient-check"](said.append)
    for (what, _, _), difference in values.items():
        assert difference < 1e-8 if what.endswith("right") else difference > 0.1
    assert sum(text.endswith("   right") for text in said) == 4
    assert sum(text.endswith("there is a mistake") for text in said) == 8


def test_gradient_checks_give_the_course_figures():
    values = TOURS["gradient-check"](lambda _: None)
    first = (1e-7, "|a|+|b|")
    assert values["1-D: right", *first] == pytest.approx(2.919335883291695e-10, rel=1e-6)
    both = values["n-D: dW2 doubled and db1 times 4", *first]
    assert both == pytest.approx(0.285093156781, abs=1e-7)
