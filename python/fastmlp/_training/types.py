"""Types that the modules of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._network.inputs import Inputs
    from .._validate import Array

    # x, y and the sample weights (None if there are none), all checked.
    Data: TypeAlias = tuple[Inputs, Any, Array | None]
    # Function called after each step with the step's number in the epoch and its loss.
    Listener: TypeAlias = Callable[[int, float], None]
    # The validation loss, if there are validation data, and the metrics.
    Measured: TypeAlias = tuple[float | None, dict[str, float]]


class Runner(Protocol):
    """Trains for one epoch at a time."""

    @property
    def finished(self) -> bool:
        """Whether more epochs would change nothing."""
        ...

    def run(self, epoch: int) -> float:
        """Train for the epoch with this number, and return its loss."""
        ...


@runtime_checkable
class Driver(Protocol):
    """Trains in its own loop over the epochs, such as the loop of a SciPy solver."""

    def drive(
        self, begin: Callable[[], None], end: Callable[[float], bool], epochs: int
    ) -> None:
        """Train; call ``begin()`` before each epoch and ``end(loss)`` after it.

        The training is over if ``end`` returns True.
        """
        ...
