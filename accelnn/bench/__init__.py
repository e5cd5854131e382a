"""`accelnn bench`: how long the notes' operations and trainings take on this machine.

`records.py` holds the measurements; `report.py` renders them.
"""
