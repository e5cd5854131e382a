"""The commands of `accelnn`; `accelnn.__main__` lists them."""
