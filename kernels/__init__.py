"""Loops: the notes' loops in plain Python (`loops`) and compiled by Numba (`jit`)."""

from collections.abc import Sequence

from .loops import HIDDEN_KINDS, OUTPUT_KINDS


def why_not(hidden: Sequence[str], output: str) -> str | None:
    """Why no kernel can train a network of these activations, or None."""
    for name, kinds in (*((name, HIDDEN_KINDS) for name in hidden), (output, OUTPUT_KINDS)):
        if name not in kinds:
            layer = "output" if kinds is OUTPUT_KINDS else "hidden"
            return (
                f"the kernels have no {layer} activation {name!r}, only {', '.join(kinds)}: "
                "use the solver 'direct'"
            )
    return None
