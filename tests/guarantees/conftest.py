"""A rounding mode that another package might have set."""

import ctypes
import platform
import sys

import pytest


class RoundingUpward:
    """A rounding mode of the caller, such as another package might have set."""

    NEAREST, UPWARD = 0x0, 0x800 if platform.machine() == "x86_64" else 0x400000

    def __init__(self):
        self.libm = ctypes.CDLL(None)

    def __enter__(self):
        assert self.libm.fesetround(self.UPWARD) == 0

    def __exit__(self, *error):
        self.libm.fesetround(self.NEAREST)

    def kept(self):
        return self.libm.fegetround() == self.UPWARD


@pytest.fixture
def rounding_upward():
    if sys.platform == "win32":
        pytest.skip("fesetround is in another library, with another constant")
    return RoundingUpward()
