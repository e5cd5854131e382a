"""`accelnn bench`: how long the notes' operations and trainings take on this machine."""
