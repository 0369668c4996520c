"""Layers for the columns of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .. import _validate
from ._base import Layer

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from .._validate import Array


class Columns(Layer):
    """Some columns of the input: ``h_j = x[:, columns[j]]``.

    It stands at the beginning of a branch of `Parallel`, so that columns of different
    kinds are treated differently.

    Parameters
    ----------
    columns : iterable of int
        Indices ≥ 0 of at least one column, such as ``[0, 3]`` or ``range(5, 8)``.

    Raises
    ------
    TypeError, ValueError
        If ``columns`` is empty or an index is not an int ≥ 0. `MLP` raises a ValueError
        if an index is too large.
    """

    __slots__ = ("columns",)
    kind = "columns"
    _leading = ("columns",)

    columns: tuple[int, ...]

    def __init__(self, columns: Iterable[int]) -> None:
        self._put(columns=_counts("columns", columns, 0))

    def __repr__(self) -> str:
        return f"Columns({list(self.columns)!r})"

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"columns": self.columns}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return len(self.columns)


class Embedding(Layer):
    """Learned vectors for categories: ``h = [E_0[x_0], E_1[x_1], …]``.

    Column c of the input holds whole numbers from 0 to ``sizes[c]`` - 1, as floats, and
    selects a row of the table E_c (sizes[c], n). This is PyTorch's ``nn.Embedding`` for
    each column (for categories in tables: Guo & Berkhahn 2016). The layer stands first
    in the model, or after `Columns` at the beginning of a branch, as in the example.
    The tables lie one below the other in one array, (sum of sizes, n). They are drawn
    from the standard normal distribution, as in PyTorch.

    Derivatives with respect to the input are 0. ``l2`` of `MLP.fit` leaves the tables
    alone; ``weight_decay`` of an optimiser does not.

    Parameters
    ----------
    sizes : int or iterable of int
        Number of categories of each column.
    n : int
        Length of the vectors.

    Raises
    ------
    TypeError, ValueError
        If a number is not a positive int. `MLP` raises a ValueError if the number of
        columns differs, or the layer does not take columns of the input. Methods that
        take inputs raise a ValueError if a column holds anything but numbers of
        categories.

    Examples
    --------
    A table with four numeric columns, then a column with 12 categories and one with 3:

    >>> import fastmlp as fm
    >>> numeric = [fm.Columns(range(4))]
    >>> categories = [fm.Columns([4, 5]), fm.Embedding([12, 3], 8)]
    >>> mlp = fm.MLP([6, fm.Parallel([numeric, categories]), 64, 1])
    >>> mlp.named_parameters()["0.branches.1.1.weight"].shape
    (15, 8)
    """

    __slots__ = ("n", "sizes")
    kind = "embedding"
    _leading = ("sizes", "n")

    sizes: tuple[int, ...]
    n: int

    def __init__(self, sizes: int | Iterable[int], n: int) -> None:
        one = hasattr(sizes, "__index__")
        self._put(
            sizes=_counts("sizes", [sizes] if one else sizes, 1),
            n=_validate.count("n", n, 1),
        )

    def __repr__(self) -> str:
        return f"Embedding({list(self.sizes)!r}, {self.n})"

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"sizes": self.sizes, "width": self.n}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return n_in * self.n

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (sum(self.sizes), self.n)}

    def first_weight(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Return the initial weight."""
        return rng.standard_normal(shape)


class Periodic(Layer):
    """Periodic embeddings of numbers, with learned frequencies.

    For column c of the input,
    ``h_c = [sin(z_c0), …, sin(z_cn), cos(z_c0), …, cos(z_cn)]`` with
    ``z_cj = 2 π w_cj x_c`` and frequencies w (n_in, n). They let a network learn
    functions of a number that are not smooth, as tables often have them (Gorishniy et
    al. 2022, section 3.3). The input should be scaled, for example by its standard
    deviation. A dense layer usually follows.

    Parameters
    ----------
    n : int
        Number of frequencies of each column, which becomes 2 n outputs.
    sigma : float
        Standard deviation > 0 of the initial frequencies, which are normally
        distributed around 0. The paper searches from 0.01 to 100; larger values suit
        less smooth functions, and overfit more.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import fastmlp as fm
    >>> mlp = fm.MLP([8, fm.Periodic(16), 64, 1])
    >>> mlp.weights[0].shape
    (256, 64)
    """

    __slots__ = ("n", "sigma")
    kind = "periodic"
    is_linear = False
    flops = (30, 34)  # a sine takes about as many operations
    _defaults: ClassVar[dict[str, Any]] = {"n": 16, "sigma": 0.1}

    n: int
    sigma: float

    def __init__(self, n: int = 16, sigma: float = 0.1) -> None:
        self._put(
            n=_validate.count("n", n, 1),
            sigma=_validate.real("sigma", sigma, 0.0, open_low=True),
        )

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"width": self.n}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return 2 * n_in * self.n

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in, self.n)}

    def first_weight(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Return the initial frequencies."""
        return self.sigma * rng.standard_normal(shape)


class PiecewiseLinear(Layer):
    """Piecewise-linear encodings of numbers, with bins learnt from data.

    For bin t of column c of the input, ``h_ct = (x_c - lower_ct) slope_ct``, but at
    least 0, except in the first bin, and at most 1, except in the last: how far x_c is
    through the bin (Gorishniy et al. 2022, section 3.2). With this encoding a dense
    layer can learn a piecewise-linear function of each column, as trees can, and
    outliers do no harm.

    The numbers lower (n_in n,) and slope (n_in n,), which is 1 / width, belong to the
    model, but they are not parameters. `fastmlp.MLP.adapt` takes the limits of the bins
    from the quantiles of the data, so that each bin holds about as many samples; until
    then the bins are 1 wide and begin at 0. A column with few different values gets
    fewer bins, and the others have the slope 0.

    Parameters
    ----------
    n : int
        Number of bins of each column, which becomes n outputs.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an int ≥ 1.

    Examples
    --------
    >>> import numpy as np, fastmlp as fm
    >>> mlp = fm.MLP([1, fm.PiecewiseLinear(2), 8, 1], seed=0)
    >>> mlp.adapt([[0.0], [1.0], [2.0], [6.0], [10.0]])
    >>> mlp.state_dict()["0.lower"].tolist(), mlp.state_dict()["0.slope"].tolist()
    ([0.0, 2.0], [0.5, 0.125])
    """

    __slots__ = ("n",)
    kind = "piecewise_linear"
    is_linear = False
    flops = (4, 6)
    statistics = ("lower", "slope")
    _defaults: ClassVar[dict[str, Any]] = {"n": 48}

    n: int

    def __init__(self, n: int = 48) -> None:
        self._put(n=_validate.count("n", n, 1))

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"width": self.n}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return n_in * self.n

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return dict.fromkeys(self.statistics, (n_in * self.n,))


def _counts(name: str, values: object, least: int) -> tuple[int, ...]:
    """Return checked ints, at least one."""
    wanted = f"{name} must be a sequence of at least one int"
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{wanted}, got {_validate.describe(values)}")
    items = list(_validate.iterator(wanted, values))
    if not items:
        raise ValueError(f"{wanted}, got none")
    return tuple(
        _validate.count(f"{name}[{i}]", item, least) for i, item in enumerate(items)
    )
