"""How good predictions are."""

from accelnn.backend import Array, array_module


def accuracy(predictions: Array, Y: Array) -> float:
    """The share of examples predicted right, in 0..1; waits for the device.

    Parameters
    ----------
    predictions : as `Network.predict` gives them: (1, m) of 0 and 1, or class indices (m,)
    Y : (1, m) of 0 and 1, or one-hot (n_classes, m)

    Raises ValueError where the two do not go together, or there are no examples.
    """
    xp = array_module(predictions, Y)
    predictions, Y = xp.asarray(predictions), xp.asarray(Y)
    labels = Y.argmax(axis=0) if predictions.ndim == 1 and Y.ndim == 2 else Y
    if predictions.shape != labels.shape:
        raise ValueError(
            f"expected predictions (1, m) with Y (1, m), or (m,) with one-hot Y (n, m), "
            f"got {predictions.shape} with {Y.shape}"
        )
    if not predictions.size:
        raise ValueError("expected at least one example, got none")
    return float((predictions == labels).mean())
