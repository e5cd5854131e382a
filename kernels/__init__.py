"""Loops: the notes' loops in plain Python (`loops`) and compiled by Numba (`jit`)."""
