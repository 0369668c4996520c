"""Small integers and widths for the tests of inputs."""

ROWS, N_IN, N_OUT = 6, 4, 3


# Losses of a few rows in float64, against the same formulas in numpy.
LOSS_RTOL = 1e-13
