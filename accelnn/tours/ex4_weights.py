"""Exercise 4's trained weights, and the costs published with them."""

import os

from accelnn import datasets
from accelnn.network import Network
from accelnn.scores import accuracy

from .checks import Say, check

PUBLISHED = {0.0: 0.287629, 1.0: 0.383770}  # the cost by λ


def ex4_weights(say: Say = print, folder: str | os.PathLike[str] | None = None) -> dict[str, float]:
    """Exercise 4's given weights: cost 0.287629, with L2 0.383770 (needs ex4data1.mat).

    Reads ex4weights.mat too, from a `folder` as for `datasets.load_ex4`, or raises
    FileNotFoundError. Returns the costs by name, and the accuracy.
    """
    data = datasets.load_ex4(folder, dtype="float64")
    params = datasets.load_ex4_weights(folder, dtype="float64")
    X, Y, m = data.X_train, data.Y_train, data.X_train.shape[1]
    say(data.source)
    say(f"{m} digits, and the weights of a net {list(params.layers)} from ex4weights.mat")
    say(f"  {'λ':>3}   {'cost':>9}   published")
    costs = {}
    for l2, published in PUBLISHED.items():
        net = Network(params.layers, hidden="sigmoid", l2=l2)
        cost = costs[f"cost, λ = {l2:g}"] = net.cost(params, X, Y)
        agrees = "the same" if abs(cost - published) < 1e-6 else "not the course's files?"
        say(f"  {l2:3g}   {cost:9.6f}   {published:9.6f}   {agrees}")
    plain, with_l2 = costs.values()
    penalty = sum(float((W * W).sum()) for W, _ in params) / (2 * m)
    check("the cost of L2", with_l2 - plain, penalty)
    say(f"  L2 adds λ/(2m) Σ W² = {penalty:.6f}; biases are not penalised")
    share = accuracy(net.predict(params, X), Y)
    say(f"  accuracy on these digits: {share:.2%}")
    return {**costs, "accuracy": share}
