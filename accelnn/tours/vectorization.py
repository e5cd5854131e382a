"""Vectorisation and broadcasting, as the notes introduce them."""

from typing import Any

import numpy as np

from accelnn import backend
from accelnn.backend import to_host
from accelnn.kernels import loops

from .checks import Say, check, fastest

FOODS = ("apples", "beef", "eggs", "potatoes")
CALORIES = {
    "carbohydrate": (56.0, 0.0, 4.4, 68.0),
    "protein": (1.2, 104.0, 52.0, 8.0),
    "fat": (1.8, 135.0, 99.0, 0.9),
}


def vectorization(say: Say = print, n: int = 1_000_000) -> dict[str, Any]:
    """The dot product of n numbers, loop against vectorised, and the calories by broadcasting.

    Returns loop and vectorised (the dot products), loop_seconds, vectorised_seconds, ratio (of
    these two), calories (4,) and percentage (3, 4), all on the host.
    """
    device = backend.current()
    random = np.random.RandomState(1)
    a, b = random.rand(n), random.rand(n)
    with backend.NumpyBackend().timer() as timing:
        loop = float(loops.dot(a, b))
    a, b = device.to_device(a), device.to_device(b)
    vectorised = float(check("the vectorised dot product", device.xp.dot(a, b), loop))
    seconds = fastest(lambda: device.xp.dot(a, b), device)
    ratio = timing.seconds / seconds
    say(f"The dot product of two vectors of {n:,} random numbers in 0..1:")
    say(f"  loop        {loop:.6f}   {timing.seconds * 1e3:10.3f} ms   for i in range(n): ...")
    say(f"  vectorised  {vectorised:.6f}   {seconds * 1e3:10.3f} ms   {device.name}.dot(a, b)")
    say(f"  vectorised is {ratio:,.0f} times faster, on {device.device_name()}")

    A = device.to_device(np.array(list(CALORIES.values())))
    cal = A.sum(axis=0)
    percentage = to_host(100 * A / cal.reshape(1, 4))
    check("the sum of the percentages", percentage.sum(axis=0), [100] * 4)
    cal = to_host(cal)
    say("\nBroadcasting: the percentage of the calories from each nutrient,")
    say("100 * A / cal.reshape(1, 4)")
    say(f"  {'':12}" + "".join(f"{food:>10}" for food in FOODS))
    for nutrient, row in zip(CALORIES, percentage, strict=True):
        say(f"  {nutrient:12}" + "".join(f"{value:10.2f}" for value in row))
    say(f"  {'calories':12}" + "".join(f"{value:10.1f}" for value in cal))
    return {
        "loop": loop,
        "vectorised": vectorised,
        "loop_seconds": timing.seconds,
        "vectorised_seconds": seconds,
        "ratio": ratio,
        "calories": cal,
        "percentage": percentage,
    }
