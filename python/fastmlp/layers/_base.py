"""The base class of all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    import numpy as np

    from .._validate import Array


class Layer:
    """Base class of the layers; use one of its subclasses.

    Layers are immutable, compare by value, and can be hashed and pickled.
    """

    # A subclass defines everything that other modules need to know about its kind of
    # layer, except for the tables in `fastmlp._formats`. Unless stated otherwise, the
    # members below are for resolved layers, whose fields are all set: none is left to
    # the model's defaults.

    __slots__ = ()

    # Arguments of the constructor: those that ``__repr__`` always shows, and those that
    # it shows only if they differ from the defaults given here.
    _leading: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    # Name of this kind of layer in the core.
    kind: ClassVar[str]
    # Whether the layer returns its input unchanged at inference.
    is_identity_at_inference: ClassVar[bool] = False
    # Whether the layer is linear at inference, apart from its activation.
    is_linear: ClassVar[bool] = True
    # Whether the initial weights of a dense layer before this layer are chosen for an
    # activation after this layer, as if this layer were not there.
    precedes_activation: ClassVar[bool] = False
    # Name of the activation for which the initial weights of a dense layer before this
    # layer are chosen, if this layer takes the place of one.
    acts_as: ClassVar[str | None] = None
    # Roles of the layer's mean and variance, which are in the model's buffers.
    statistics: ClassVar[tuple[str, ...]] = ()
    # Number of operations per output element in a forward pass: at inference, and in
    # training.
    flops: ClassVar[tuple[int, int]] = (0, 0)

    @property
    def is_last(self) -> bool:
        """Whether the layer must be the last one of a model."""
        return False

    @property
    def sequences(self) -> dict[str, tuple[Layer, ...]]:
        """Sequences of layers inside, by name; all take the layer's input."""
        return {}

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return n_in

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role.

        Roles are names such as "weight", as in PyTorch's ``state_dict``. The arrays of
        inner layers are not included. Roles in ``fastmlp.layers.STATISTICS`` are not
        parameters.
        """
        return {}

    def first_weight(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> Array | float:
        """Return the initial values of the array "weight" of a layer but `Dense`."""
        return 1.0

    def undrawn(self) -> Layer:
        """Return the layer for a model that is filled with given parameters.

        Its initialiser draws no numbers and calls no function.
        """
        return self

    def steady(self) -> Layer:
        """Return the undrawn layer without random numbers in training."""
        return self.undrawn()

    def column_map(self, arrays: Mapping[str, Array]) -> tuple[Array, Array] | None:
        """Return (scale, shift) if inference computes x * scale + shift, or else None.

        Parameters
        ----------
        arrays
            The layer's arrays by role.
        """
        return None

    def _put(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, n) for n in (*self._leading, *self._defaults))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        kind = type(self).__name__
        raise AttributeError(f"{kind} is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        kind = type(self).__name__
        raise AttributeError(f"{kind} is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer):
            return NotImplemented
        return type(self) is type(other) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        parts = [repr(getattr(self, name)) for name in self._leading]
        for name, default in self._defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __reduce__(self) -> tuple[type[Layer], tuple[Any, ...]]:
        return type(self), self._fields()
