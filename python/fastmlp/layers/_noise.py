"""Layers that are random in training and do nothing at inference."""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

from .. import _validate, schedules
from ..schedules import Schedule, Timeline
from ._base import Layer


class RandomLayer(Layer):
    """Base class of the layers that are random in training and else do nothing.

    Their only argument is a number ≥ 0, the rate, or a schedule of rates.
    """

    __slots__ = ()
    is_identity_at_inference = True
    precedes_activation = True
    # A number that the rate must be below.
    _below: ClassVar[float] = 1.0

    @property
    def rate(self) -> float | Schedule:
        """The rate, or the schedule of rates."""
        value: float | Schedule = getattr(self, self._leading[0])
        return value

    @property
    def first_rate(self) -> float:
        """The rate, or the first one of the schedule."""
        rate = self.rate
        return rate(0) if isinstance(rate, Schedule) else rate

    def timeline(self, place: str = "") -> Timeline | None:
        """Return the rates by step if there is a schedule; messages name the place."""
        name, rate = self._leading[0], self.rate
        if not isinstance(rate, Schedule):
            return None
        return Timeline(f"{name}{place}", rate, below=self._below)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"rate": self.first_rate}

    def steady(self) -> Layer:
        """Return the layer without random numbers in training."""
        kind: Any = type(self)
        layer: Layer = kind(0.0)
        return layer

    def _set_rate(self, value: float | Schedule) -> None:
        (name,) = self._leading
        if not isinstance(value, Schedule):
            value = _validate.real(name, value, 0.0, self._below, open_high=True)
        elif not schedules.is_pure(value):
            raise TypeError(
                f"{name} must be a number or a schedule of fm.schedules other than "
                f"ReduceOnPlateau, got {_validate.describe(value)}"
            )
        self._put(**{name: value})
        if (timeline := self.timeline()) is not None:
            timeline.at(0)


class _WithProbability(RandomLayer):
    """Base class of the layers with a probability p, 0 ≤ p < 1."""

    __slots__ = ("p",)
    _leading = ("p",)

    p: float | Schedule

    def __init__(self, p: float | Schedule = 0.5) -> None:
        self._set_rate(p)


class GaussianNoise(RandomLayer):
    """Additive Gaussian noise (Bishop 1995).

    In training, each element x becomes x + stddev n with a standard normal number n. At
    inference the layer does nothing. The numbers n are a function of (seed, epoch,
    step, layer, element), computed by the method of Box & Muller (1958) with
    elementary functions that give the same bits everywhere.

    Parameters
    ----------
    stddev : float or Schedule
        Standard deviation of the noise, ≥ 0, or a schedule of it as for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If stddev is neither a finite number ≥ 0 nor a schedule of such numbers.
    """

    __slots__ = ("stddev",)
    kind = "gaussian_noise"
    flops = (0, 2)
    _leading = ("stddev",)

    _below = inf

    stddev: float | Schedule

    def __init__(self, stddev: float | Schedule) -> None:
        self._set_rate(stddev)


class Dropout(_WithProbability):
    """Inverted dropout (Srivastava et al. 2014).

    In training, each element x becomes 0 with probability p, and x / (1 - p) otherwise.
    At inference the layer does nothing. The mask is a function of (seed, epoch, step,
    layer, element) and independent of the number of threads, so that resumed training
    continues exactly.

    Parameters
    ----------
    p : float or Schedule
        Probability of dropping an element, 0 ≤ p < 1, or a schedule, though not
        `fastmlp.schedules.ReduceOnPlateau`, which gives the probability at each step as
        it would give the learning rate. In `MLP.fit` and `MLP.train_step`, steps are
        those of the optimiser; in other passes in training mode, the model's passes of
        this kind so far take their place.

    Raises
    ------
    TypeError, ValueError
        If p is neither a number in [0, 1) nor a schedule whose first value is one.

    Notes
    -----
    A later value of a schedule outside [0, 1) raises ValueError before its step, or
    before its epoch in `MLP.fit`. Copies for other libraries have the schedule's first
    value.

    Examples
    --------
    A dropout that is constant for half of the training and then falls to 0, as in
    RealMLP (Holzmüller et al. 2024):

    >>> p = fm.schedules.FlatCosine(0.15, steps=1000, flat=0.5)
    >>> mlp = fm.MLP([8, 64, fm.Dropout(p), 1])
    """

    __slots__ = ()
    kind = "dropout"
    flops = (0, 1)


class AlphaDropout(_WithProbability):
    """Alpha dropout, for networks of "selu" (Klambauer et al. 2017).

    In training, each element x becomes a m + b with probability p, and a x + b
    otherwise. m = -1.7580993408473766 is the limit of selu at -∞;
    a = ((1 - p) (1 + p m²))^(-1/2) and b = -a m p keep the mean 0 and the variance 1 of
    the elements. At inference the layer does nothing. The mask is that of `Dropout`.

    Parameters
    ----------
    p : float or Schedule
        Probability of replacing an element, 0 ≤ p < 1, or a schedule of it as for
        `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If p is neither a number in [0, 1) nor a schedule whose first value is one.
    """

    __slots__ = ()
    kind = "alpha_dropout"
    flops = (0, 2)


class GaussianDropout(_WithProbability):
    """Multiplicative Gaussian noise (Srivastava et al. 2014, section 10).

    In training, each element is multiplied by a normal number with mean 1 and variance
    p / (1 - p), which are those of the factors of `Dropout`. At inference the layer
    does nothing. The numbers are drawn as by `GaussianNoise`.

    Parameters
    ----------
    p : float or Schedule
        Probability of the `Dropout` with the same mean and variance, 0 ≤ p < 1, or a
        schedule of it.

    Raises
    ------
    TypeError, ValueError
        If p is neither a number in [0, 1) nor a schedule whose first value is one.
    """

    __slots__ = ()
    kind = "gaussian_dropout"
    flops = (0, 3)
