"""`python -m accelnn.bench`: how long the notes' operations and trainings take on this machine.

Measured once into records (`records.py`), rendered from them (`report.py`).
"""
