"""The campaign: bad files for every reader and faults for every command, in processes with limits.

    PYTHONPATH=tests python -m fuzz --help

`readers.py` has the table of readers: what each may raise, and what must hold of what it accepts.
A case is a reader's name and a seed, from which `readers.make` makes the same file again.
"""
