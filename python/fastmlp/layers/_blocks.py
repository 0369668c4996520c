"""Layers that contain layers, and the checks of a sequence of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _validate
from ._base import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Block(Layer):
    """Base class of the layers that contain sequences of layers."""

    __slots__ = ()

    @property
    def parts(self) -> dict[str, tuple[int | Layer, ...]]:
        """The sequences as they were given, by name; all take the layer's input."""
        raise NotImplementedError

    @classmethod
    def of_parts(cls, parts: Sequence[Sequence[int | Layer]]) -> Block:
        """Return a layer of this class with these sequences, in the same order."""
        raise NotImplementedError

    @property
    def sequences(self) -> dict[str, tuple[Layer, ...]]:
        """Sequences of layers inside, by name; all take the layer's input."""
        return {
            name: tuple(item for item in items if isinstance(item, Layer))
            for name, items in self.parts.items()
        }

    def undrawn(self) -> Block:
        """Return the layer for a model that is filled with given parameters."""
        return self._with(lambda layer: layer.undrawn())

    def steady(self) -> Block:
        """Return the undrawn layer without random numbers in training."""
        return self._with(lambda layer: layer.steady())

    def _with(self, change: Callable[[Layer], Layer]) -> Block:
        """Return the block with a function of each layer inside."""
        return self.of_parts(
            [
                [change(i) if isinstance(i, Layer) else i for i in items]
                for items in self.parts.values()
            ]
        )


class Residual(Block):
    """A residual block (He et al. 2016): ``y = x + body(x)``.

    If the body's output width differs from its input width,
    ``y = x @ W + b + body(x)`` with a learnt projection.

    Parameters
    ----------
    layers : sequence of int or Layer
        Body of at least one layer: widths or layers, as for `fastmlp.MLP` but without
        an input width. Residual blocks may be nested.

    Raises
    ------
    TypeError, ValueError
        If ``layers`` is empty, or an item is neither a positive int nor a layer.
    """

    __slots__ = ("layers",)
    kind = "residual"
    flops = (1, 1)
    _leading = ("layers",)

    layers: tuple[int | Layer, ...]

    def __init__(self, layers: Iterable[int | Layer]) -> None:
        self._put(layers=tuple(checked("Residual: layers", layers)))

    def __repr__(self) -> str:
        return f"Residual({list(self.layers)!r})"

    @property
    def parts(self) -> dict[str, tuple[int | Layer, ...]]:
        """The body as it was given."""
        return {"body": self.layers}

    @classmethod
    def of_parts(cls, parts: Sequence[Sequence[int | Layer]]) -> Residual:
        """Return a block with this body."""
        (body,) = parts
        return cls(body)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"body": core_layers(self.sequences["body"])}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return width_after(self.sequences["body"], n_in)

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the projection's arrays, if there is a projection."""
        n = self.n_out(n_in)
        if n == n_in:
            return {}
        return {"projection.weight": (n, n_in), "projection.bias": (n,)}


class Concat(Block):
    """A block whose input stays: ``y = [x, body(x)]``, side by side.

    This is the skip connection of DenseNet (Huang et al. 2017). The width grows by that
    of the body.

    Parameters
    ----------
    layers : sequence of int or Layer
        Body of at least one layer: widths or layers, as for `fastmlp.MLP` but without
        an input width.

    Raises
    ------
    TypeError, ValueError
        If ``layers`` is empty, or an item is neither a positive int nor a layer.

    Examples
    --------
    The last layer reads the inputs as well as the hidden units:

    >>> import fastmlp as fm
    >>> wide_and_deep = fm.MLP([10, fm.Concat([64, 64]), 1])
    >>> wide_and_deep.weights[-1].shape
    (74, 1)
    """

    __slots__ = ("layers",)
    kind = "concat"
    _leading = ("layers",)

    layers: tuple[int | Layer, ...]

    def __init__(self, layers: Iterable[int | Layer]) -> None:
        self._put(layers=tuple(checked("Concat: layers", layers)))

    def __repr__(self) -> str:
        return f"Concat({list(self.layers)!r})"

    @property
    def parts(self) -> dict[str, tuple[int | Layer, ...]]:
        """The body as it was given."""
        return {"body": self.layers}

    @classmethod
    def of_parts(cls, parts: Sequence[Sequence[int | Layer]]) -> Concat:
        """Return a block with this body."""
        (body,) = parts
        return cls(body)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"branches": [("", []), ("body", core_layers(self.sequences["body"]))]}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return n_in + width_after(self.sequences["body"], n_in)


class Parallel(Block):
    """Branches with the same input, whose outputs stand side by side.

    ``y = [branch_0(x), branch_1(x), …]``. As the last layer it gives a network several
    heads: the mean and the variance of a target, or the logits of a policy and a value.
    The last dense layer of each branch is then an output layer, which has the model's
    ``output_activation`` unless it has its own.

    Parameters
    ----------
    branches : sequence of sequences of int or Layer
        Two or more branches: widths or layers, as for `fastmlp.MLP` but without an
        input width. An empty branch, ``[]``, is x itself.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two branches, a branch is not a sequence, or an item of
        a branch is neither a positive int nor a layer.

    Examples
    --------
    A policy over four actions and a value, on top of shared layers:

    >>> import fastmlp as fm
    >>> heads = fm.Parallel([[32, fm.Dense(4, "softmax")], [32, 1]])
    >>> mlp = fm.MLP([8, 64, 64, heads])
    >>> mlp.n_out
    5
    """

    __slots__ = ("branches",)
    kind = "concat"
    _leading = ("branches",)

    branches: tuple[tuple[int | Layer, ...], ...]

    def __init__(self, branches: Iterable[Iterable[int | Layer]]) -> None:
        wanted = "Parallel: branches must be a sequence of at least two sequences"
        if isinstance(branches, (str, bytes)):
            raise TypeError(f"{wanted}, got {_validate.describe(branches)}")
        given = list(_validate.iterator(wanted, branches))
        if len(given) < 2:
            raise ValueError(f"{wanted}, got {_validate.counted(len(given), 'item')}")
        checks = [_branch(f"Parallel: branches[{i}]", b) for i, b in enumerate(given)]
        self._put(branches=tuple(checks))

    def __repr__(self) -> str:
        return f"Parallel({[list(branch) for branch in self.branches]!r})"

    @property
    def parts(self) -> dict[str, tuple[int | Layer, ...]]:
        """The branches as they were given."""
        return {f"branches.{i}": branch for i, branch in enumerate(self.branches)}

    @classmethod
    def of_parts(cls, parts: Sequence[Sequence[int | Layer]]) -> Parallel:
        """Return a layer with these branches."""
        return cls(parts)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        inside = self.sequences.items()
        return {"branches": [(name, core_layers(layers)) for name, layers in inside]}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return sum(width_after(layers, n_in) for layers in self.sequences.values())


def _branch(name: str, items: object) -> tuple[int | Layer, ...]:
    """Return a checked branch, which may be empty."""
    if isinstance(items, (list, tuple)) and not items:
        return ()
    return tuple(checked(name, items))


def width_after(layers: Iterable[Layer], n_in: int) -> int:
    """Return the output width of a sequence of layers for an input width."""
    for layer in layers:
        n_in = layer.n_out(n_in)
    return n_in


def core_layers(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Return resolved layers in the form that the core takes."""
    return [{"kind": layer.kind, **layer.core_form()} for layer in layers]


def checked(name: str, layers: object, n_in: bool = False) -> list[int | Layer]:
    """Return a checked list of widths and layers, after an input width if ``n_in``."""
    first = "the input width, then widths or layers" if n_in else "widths or layers"
    wanted = f"{name} must be a sequence: {first}"
    if isinstance(layers, (str, bytes)):
        raise TypeError(f"{wanted}, got {_validate.describe(layers)}")
    items = list(_validate.iterator(wanted, layers))
    if len(items) < 1 + n_in:
        raise ValueError(
            f"{wanted}, with at least one layer; got a sequence of length {len(items)}"
        )

    result: list[int | Layer] = []
    for i, item in enumerate(items):
        if isinstance(item, Layer) and (i > 0 or not n_in):
            if item.is_last and not (n_in and i == len(items) - 1):
                raise ValueError(
                    f"{name}[{i}] must not be {item!r}, which can only be the last "
                    "layer of a model"
                )
            result.append(item)
        elif hasattr(item, "__index__"):
            result.append(_validate.count(f"{name}[{i}]", item, 1))
        else:
            kinds = "an int or a layer such as fm.Dense"
            got = _validate.describe(item)
            if isinstance(item, type) and issubclass(item, Layer):
                got = f"the class {item.__name__}; did you mean fm.{item.__name__}(…)?"
            elif i == 0 and n_in:
                kinds = "an int, the input width"
            raise TypeError(f"{name}[{i}] must be {kinds}; got {got}")
    return result
