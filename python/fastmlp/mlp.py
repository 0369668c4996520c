"""The multilayer perceptron."""

from __future__ import annotations

import copy
import operator
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, _validate, initializers
from ._network import resolve, summary
from ._network.fold import fold
from ._network.model import EpochSequence, register
from ._network.views import Views
from ._training import arguments, custom, seeds, session
from ._validate import accepted
from .layers import activation_name, checked, core_layers
from .losses import Loss, as_loss
from .optimizers import Optimizer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

    import numpy.typing as npt
    import torch

    from ._validate import Array
    from .callbacks import Callback
    from .layers import Layer
    from .losses import TargetLike
    from .metrics import History
    from .solvers import Solver

    # What numpy.random.default_rng takes, but for None.
    Seed = (
        int
        | np.integer[Any]
        | Sequence[int]
        | Array
        | np.random.SeedSequence
        | np.random.BitGenerator
        | np.random.Generator
    )


@register
class MLP:
    """A multilayer perceptron: h₀ = x, hᵢ = layerᵢ(hᵢ₋₁), y the last of the h.

    A layer is dense, act(h @ W + b), or another one of `fastmlp.layers`.

    Parameters
    ----------
    layers : sequence of int or Layer
        The input width, then for each layer its width, if it is dense, or a layer
        object: `Dense`, `Activation`, `Dropout`, `LayerNorm`, `BatchNorm`, `Residual`.
        There need be no hidden layer.
    activation : str
        Of dense layers that do not name their own: one of ``fastmlp.ACTIVATIONS``,
        whose formulas `fastmlp.layers` gives.
    output_activation : str
        Of the last dense layer, if it does not name its own.
    init : str
        How parameters are drawn, see `fastmlp.initializers`.
    bias : bool
        Whether the layers given as widths have biases.
    dtype : {"float32", "float64"}
        Of parameters, inputs and outputs.
    seed : int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Where parameters, and after them the orders of `fit` and what dropout draws in
        training, are drawn from: whatever
        ``numpy.random.default_rng`` takes, bools apart; None draws from the operating
        system.

    Attributes
    ----------
    n_in, n_out : int
        Widths of input and output; read-only, as are the next three.
    n_params : int
        How many parameters there are.
    dtype : numpy.dtype
        Of parameters, inputs and outputs.
    layers : tuple of Layer
        The layers, nothing left open.
    history : History or None
        Of the last `fit`, an interrupted one included.

    Raises
    ------
    TypeError, ValueError
        For widths that are no positive ints, unknown names, and other ``layers``.

    Notes
    -----
    Inputs are anything that ``np.asarray`` takes or that has ``__dlpack__``, in the
    CPU's memory. Arrays of the model's dtype that are C-contiguous (read-only ones,
    memory maps and tensors among them) are used as they are, all others are converted
    once per call; arrays to be written to (``out``) are never converted. Whatever
    raises TypeError or ValueError leaves the model unchanged.

    Results are the same to the last bit for any number of threads, any position of a
    row in a batch and any instruction set.
    """

    history: History | None

    # For the package's other modules: the compiled core, which computes, and the
    # epochs that orders of samples are drawn for.
    core: _core.Mlp
    sequence: EpochSequence

    _n_in: int
    _dtype: np.dtype[Any]

    def __init__(
        self,
        layers: Iterable[int | Layer],
        *,
        activation: str = "relu",
        output_activation: str = "identity",
        init: str = "auto",
        bias: bool = True,
        dtype: npt.DTypeLike = "float32",
        seed: Seed | None = None,
    ) -> None:
        # The architecture, as given (for the representation) and resolved.
        self._given: dict[str, Any] = {
            "layers": checked("layers", layers, n_in=True),
            "activation": activation_name("activation", activation),
            "output_activation": activation_name(
                "output_activation", output_activation
            ),
            "init": _validate.choice("init", init, initializers.INITIALIZERS),
            "bias": _validate.flag("bias", bias),
            "dtype": _validate.float_dtype(dtype).name,
        }
        rng = seeds.generator(seed)
        self._build()

        # Parameters, then the seed of all orders to come.
        for scale in self._views.scales:
            scale[:] = 1
        draws = resolve.first_draws(self._layers, self._given["init"])
        by_place = {place: how for place, *how in draws}
        hidden = ""
        for i, place in enumerate(self._views.places):
            own, how = by_place[place]
            last = i == len(self._views.places) - 1
            hidden = hidden if last and i > 0 else own
            weight, bias_vector = self.weights[i], self.biases[i]
            initializers.draw(how, rng, weight, bias_vector, own, hidden)
        self.sequence = EpochSequence(int(rng.integers(2**63)))
        self.core.training_state = (self.sequence.seed, 0, 0)
        self.history = None

    def _build(self) -> None:
        """Make from ``_given`` all that follows from it; parameters are not drawn."""
        given = self._given
        self._n_in, *items = given["layers"]
        defaults = resolve.Defaults(
            given["activation"],
            given["output_activation"],
            given["bias"],
            given["init"],
        )
        self._layers = resolve.resolve(items, defaults)
        self._dtype = np.dtype(given["dtype"])

        # The size, in Python's integers, which do not overflow.
        size, self._n_out = resolve.count_parameters(self.n_in, self._layers)
        if size > sys.maxsize // self.dtype.itemsize:
            raise ValueError(
                f"layers need {size} parameters, more than can be addressed"
            )
        self._n_params = size

        # The core, and views of its parameters.
        layers = core_layers(self._layers)
        self.core = _core.Mlp(self.dtype.name, self.n_in, layers)
        self._params, self._buffers = self.core.params, self.core.buffers
        self._views = Views(self._layers, self.core.ops, self._params, self._buffers)
        self._weights = tuple(self._views.weights)
        self._biases = tuple(self._views.biases)
        self.forward_shape: tuple[int, ...] | None = None
        # What an optimiser keeps of the model it belongs to.
        self._self = weakref.ref(self)

    # The architecture ---------------------------------------------------------------

    @property
    def n_in(self) -> int:
        """The width of the input."""
        return self._n_in

    @property
    def n_out(self) -> int:
        """The width of the output."""
        return self._n_out

    @property
    def n_params(self) -> int:
        """How many parameters there are."""
        return self._n_params

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, inputs and outputs."""
        return self._dtype

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, nothing left open."""
        return self._layers

    # Parameters ---------------------------------------------------------------------

    @property
    def params(self) -> Array:
        """All parameters, 1-D, in the order W₀, b₀, W₁, b₁, …: a view to write into.

        In the place of a normalisation are its scale, then its shift; in that of a
        residual block are its body's, then its projection's.
        """
        return self._params

    @params.setter
    def params(self, value: object) -> None:
        raise AttributeError(
            "mlp.params cannot be replaced; write into it: mlp.params[:] = values"
        )

    @property
    def weights(self) -> tuple[Array, ...]:
        """The weight (in, out) of each dense layer, views of `params`.

        Those within residual blocks, and their projections, are among them, in the
        order of `params`.
        """
        return self._weights

    @property
    def biases(self) -> tuple[Array | None, ...]:
        """The bias (out,) of each dense layer or None, views of `params`."""
        return self._biases

    @property
    def buffers(self) -> Array:
        """The running statistics of each `BatchNorm`, 1-D: a view to write into.

        In the order of the layers the running mean (n,), then the variance (n,).
        """
        return self._buffers

    def named_parameters(self) -> dict[str, Array]:
        """Return views of `params` by the names of `state_dict`.

        Returns
        -------
        dict of str to ndarray
            ``"0.weight"`` (in, out) and ``"0.bias"`` (out,) of dense layers, ``weight``
            (the scale) and ``bias`` (the shift) of normalisations.
        """
        return dict(self._views.parameters)

    def state_dict(self) -> dict[str, Array]:
        """Return contiguous copies of the parameters by torch's names, in its layout.

        Returns
        -------
        dict of str to ndarray
            ``"0.weight"`` (out, in), ``"0.bias"`` (out,), ``"2.weight"``, …: as of a
            ``torch.nn.Sequential`` with a module for each layer, and one after a dense
            layer for an activation other than the identity. Normalisations have
            ``weight``, ``bias``, and ``running_mean``, ``running_var`` and
            ``num_batches_tracked``; residual blocks have modules ``body`` and
            ``projection``: ``"3.body.0.weight"``.

        Notes
        -----
        The seed of what training draws (orders, dropout) is not among them. Dropout in
        `train_step` is a function of that seed and of the optimiser's count of steps:
        so with both states in a model made with the same ``seed`` training goes on
        exactly. `copy`, pickles and `fastmlp.Checkpoint` hold the seed, and how far
        `fit` and calls with ``training=True`` have come, as well.
        """
        views = self._views.in_torch_layout()
        tracked = self.core.training_state[2]
        state = {}
        for name, view in views.items():
            state[name] = np.array(view, order="C")
            # The last one of a batch normalisation.
            if name.endswith(".running_var"):
                state[_counter(name)] = np.array(tracked, dtype=np.int64)
        return state

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Take over parameters that `state_dict` gave, or a ``torch.nn.Sequential``.

        Parameters
        ----------
        state : mapping of str to array_like
            Names and shapes as of `state_dict`, all of them and no others. Arrays are
            copied, and converted to the model's dtype if need be.

        Raises
        ------
        TypeError, ValueError
            If names are missing or unknown, or arrays of a wrong kind or shape; all
            that is wrong is listed, and the model is unchanged.
        """
        if not hasattr(state, "keys"):
            raise TypeError(f"state must be a dict, got {_validate.describe(state)}")
        places = self._views.in_torch_layout()
        names = [_counter(n) for n in places if n.endswith(".running_var")]
        counters = {n: state[n] for n in names if n in state}

        # Names and shapes, all of them before anything is written.
        wrong = [f"missing: {name}" for name in places if name not in state]
        known = {*places, *counters}
        wrong += [f"unexpected: {name}" for name in state if name not in known]
        arrays = {}
        for name in places.keys() & state.keys():
            array = _validate.convert(f"state[{name!r}]", state[name], self.dtype)
            if array.shape != places[name].shape:
                wanted = places[name].shape
                wrong.append(f"{name}: wanted shape {wanted}, got {array.shape}")
            arrays[name] = array
        tracked = 0
        for name, value in counters.items():
            count = np.asarray(value)
            if count.shape != () or count.dtype.kind not in "iu" or count < 0:
                wrong.append(f"{name}: wanted a count, got {_validate.describe(value)}")
            else:
                tracked = max(tracked, int(count))
        if wrong:
            raise ValueError(
                "state does not fit the model; " + "; ".join(sorted(wrong))
            )

        # An array that is a view of these parameters must not change while it is read.
        for name, array in arrays.items():
            own = (self._params, self._buffers)
            if any(np.may_share_memory(array, o) for o in own):
                arrays[name] = array.copy()
        for name, array in arrays.items():
            places[name][:] = array
        seed, passes, _ = self.core.training_state
        self.core.training_state = (seed, passes, tracked)

    # Inference and gradients --------------------------------------------------------

    def predict(self, x: npt.ArrayLike, out: Any = None) -> Array:
        """Return the outputs for inputs; calling the model is the same.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        out : ndarray (B, n_out) or (n_out,), optional
            Where to write the result: of the model's dtype, C-contiguous, writeable,
            apart from ``x``. Also a tensor or buffer whose memory NumPy can share, such
            as a PyTorch tensor on the CPU.

        Returns
        -------
        ndarray (B, n_out) or (n_out,)
            ``out`` if it is given.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape.
        """
        y = self.core.predict(x, out)
        return self._predict_slowly(x, out) if y is NotImplemented else y

    __call__ = predict

    def _predict_slowly(self, x: object, out: Any) -> Array:
        rows = _validate.inputs("x", x, self.n_in, self.dtype, vector=True)
        if out is not None:
            shape = (*rows.shape[:-1], self.n_out)
            place = _validate.shared("out", out)
            place = _validate.exact("out", place, self.dtype, shape, writeable=True)
            _validate.apart("out", place, "x", rows)
            self._check_apart("out", place)
            accepted(self.core.predict(rows, place))
            result: Array = out
            return result
        return accepted(self.core.predict(rows, None))

    def _check_apart(self, name: str, array: Array) -> None:
        """Refuse an array in memory of the model's own."""
        _validate.apart(name, array, "mlp.params", self._params)
        _validate.apart(name, array, "mlp.buffers", self._buffers)

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Return the outputs for inputs, and keep what `backward` needs.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        training : bool
            Whether `Dropout` drops (differently in each such call) and `BatchNorm`
            takes the statistics of the batch and moves its running ones.

        Returns
        -------
        ndarray (B, n_out) or (n_out,)
            The outputs.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape, and for fewer than two rows in training
            where there is a `BatchNorm`.
        """
        if training is not False and training is not True:
            training = _validate.flag("training", training)
        y = self.core.forward(x, training)
        if y is NotImplemented:
            rows = _validate.inputs("x", x, self.n_in, self.dtype, vector=True)
            y = accepted(self.core.forward(np.atleast_2d(rows), training))
            y = y.reshape(*rows.shape[:-1], self.n_out)
        self.forward_shape = y.shape
        return y

    def backward(self, dy: npt.ArrayLike) -> tuple[Array, Array]:
        """Return gradients of any scalar function of the last `forward`'s outputs.

        Parameters
        ----------
        dy : (B, n_out) or (n_out,)
            The derivative of the function with respect to those outputs.

        Returns
        -------
        dx : ndarray, shape of the inputs
            Its derivative with respect to the inputs.
        grads : ndarray (n_params,)
            Its derivative with respect to `params`, in their order.

        Raises
        ------
        RuntimeError
            If there was no `forward`.
        TypeError, ValueError
            If dy is of a wrong kind or shape.
        """
        shape = self.forward_shape
        if shape is None:
            raise RuntimeError("backward needs a forward before it")
        result = self.core.backward(dy)
        if result is not NotImplemented:
            return result
        rows = _validate.convert("dy", dy, self.dtype)
        if rows.shape != shape:
            raise ValueError(
                f"dy must have the shape of forward's result, {shape}, "
                f"got {_validate.describe(rows)}"
            )
        dx, grads = accepted(self.core.backward(np.atleast_2d(rows)))
        return dx.reshape(*shape[:-1], self.n_in), grads

    def vjp(
        self, x: npt.ArrayLike, dy: npt.ArrayLike, training: bool = False
    ) -> tuple[Array, Array, Array]:
        """Return outputs and gradients (vector-Jacobian product), forward and backward.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        dy : (B, n_out) or (n_out,)
            The derivative of any scalar function with respect to the outputs.
        training : bool
            As of `forward`.

        Returns
        -------
        y : ndarray (B, n_out) or (n_out,)
            The outputs.
        dx : ndarray, shape of x
            The function's derivative with respect to the inputs.
        grads : ndarray (n_params,)
            Its derivative with respect to `params`, in their order.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape.
        """
        if training is not False and training is not True:
            training = _validate.flag("training", training)
        result = self.core.vjp(x, dy, training)
        if result is not NotImplemented:
            return result
        rows = _validate.inputs("x", x, self.n_in, self.dtype, vector=True)
        seeds = _validate.convert("dy", dy, self.dtype)
        shape = (*rows.shape[:-1], self.n_out)
        if seeds.shape != shape:
            raise ValueError(
                f"dy must have the shape of the outputs, {shape}, "
                f"got {_validate.describe(seeds)}"
            )
        y, dx, grads = accepted(
            self.core.vjp(np.atleast_2d(rows), np.atleast_2d(seeds), training)
        )
        return y.reshape(shape), dx.reshape(rows.shape), grads

    # Derivatives --------------------------------------------------------------------

    # All of these are of each row by itself and in inference mode: dropout passes, and
    # batch normalisation uses its running statistics.

    def jacobian(self, x: npt.ArrayLike) -> Array:
        """Return the derivatives of all outputs with respect to all inputs.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.

        Returns
        -------
        ndarray (B, n_out, n_in) or (n_out, n_in)
            Element (b, o, i) is the derivative of output o of row b with respect to its
            input i.

        Raises
        ------
        TypeError, ValueError
            If x is of a wrong kind or shape.

        Notes
        -----
        All directions of many rows go through the layers as one matrix: n_in tangents
        on the way forward, or n_out cotangents on the way back, whichever is less work.
        Derivatives at a kink are those of the activation's backward: relu'(0) = 0.
        """
        j = self.core.jacobian(x)
        if j is NotImplemented:
            j = accepted(self.core.jacobian(self._samples(x)))
        return j

    def jvp(self, x: npt.ArrayLike, v: npt.ArrayLike) -> tuple[Array, Array]:
        """Return outputs, and how they move as the inputs do (Jacobian times vector).

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        v : array_like, shape of x
            A direction for each.

        Returns
        -------
        y : ndarray (B, n_out) or (n_out,)
            The outputs.
        dy : ndarray, shape of y
            Their derivatives along v.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape.
        """
        result = self.core.jvp(x, v)
        if result is NotImplemented:
            result = accepted(self.core.jvp(*self._samples_with(x, v)))
        return result

    def hvp(
        self,
        x: npt.ArrayLike,
        v: npt.ArrayLike,
        output: int | npt.ArrayLike | None = None,
    ) -> Array:
        """Return the second derivatives of an output times a direction.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        v : array_like, shape of x
            A direction for each.
        output : int or (n_out,), optional
            Which output, or the weights of a sum of all outputs; None if there is only
            one.

        Returns
        -------
        ndarray, shape of x
            Of each row its `hessian` times v, at the cost of two gradients.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape, without ``output`` if there are several
            outputs, and if an activation is given as functions: it has no second
            derivative.
        """
        weights = self._output_weights(output)
        result = self.core.hvp(x, v, weights)
        if result is NotImplemented:
            pair = self._samples_with(x, v)
            result = accepted(self.core.hvp(*pair, weights))
        return result

    def hessian(
        self, x: npt.ArrayLike, output: int | npt.ArrayLike | None = None
    ) -> Array:
        """Return the second derivatives of an output with respect to the inputs.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        output : int or (n_out,), optional
            Which output, or the weights of a sum of all outputs; None if there is only
            one.

        Returns
        -------
        ndarray (B, n_in, n_in) or (n_in, n_in)
            One matrix for each row. It is symmetric up to rounding.

        Raises
        ------
        TypeError, ValueError
            If x is of a wrong kind or shape, without ``output`` if there are several
            outputs, and if an activation is given as functions: it has no second
            derivative.

        Notes
        -----
        Tangents of the gradient, n_in for each row, through the second derivatives of
        activations and layer normalisations in closed form. Where a network is linear
        in pieces (relu), its second derivatives are 0.
        """
        weights = self._output_weights(output)
        h = self.core.hessian(x, weights)
        if h is NotImplemented:
            h = accepted(self.core.hessian(self._samples(x), weights))
        return h

    def param_jacobian(self, x: npt.ArrayLike) -> Array:
        """Return the derivatives of all outputs with respect to all parameters.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.

        Returns
        -------
        ndarray (B, n_out, n_params) or (n_out, n_params)
            The last axis in the order of `params`.

        Raises
        ------
        TypeError, ValueError
            If x is of a wrong kind or shape.
        """
        j = self.core.param_jacobian(x)
        if j is NotImplemented:
            j = accepted(self.core.param_jacobian(self._samples(x)))
        return j

    def per_sample_grads(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        loss: Loss,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Array:
        """Return the gradient of each row's own loss with respect to `params`.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows.
        y : (B, n_out), or (B,) if n_out is 1
            Targets; for `fastmlp.CrossEntropy` class labels, (B,), as well.
        loss : Loss
            Such as ``fm.MSE()``; not a function.
        sample_weight : (B,), optional
            Weights of the rows: finite, none negative, not all zero.

        Returns
        -------
        ndarray (B, n_params)
            Row b is the gradient of its weight times its loss. That loss is summed over
            outputs if the loss's reduction is "sum", else it is their mean (of
            cross-entropy there is one value). So the sum of the rows is the gradient
            that `value_and_grad` returns under "sum", and under "mean" it is that
            gradient times B, or times the sum of the weights, those of classes
            included.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape, for labels out of range, and for losses
            given as functions, which say nothing of single rows.
        """
        loss = as_loss(loss)
        if loss.core is None:
            raise TypeError(
                "loss must be one of fastmlp's own losses: a function of a batch says "
                "nothing about its single rows"
            )
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight)
        result = self.core.per_sample_grads(x, y, loss.core, sample_weight)
        if result is NotImplemented:
            rows, target, weight = arguments.batch(self, x, y, loss, sample_weight)
            result = accepted(
                self.core.per_sample_grads(rows, target, loss.core, weight)
            )
        return result

    def _samples(self, x: object) -> Array:
        return _validate.inputs("x", x, self.n_in, self.dtype, vector=True)

    def _samples_with(self, x: object, v: object) -> tuple[Array, Array]:
        rows = self._samples(x)
        directions = _validate.convert("v", v, self.dtype)
        if directions.shape != rows.shape:
            raise ValueError(
                f"v must have the shape of x, {rows.shape}, "
                f"got {_validate.describe(directions)}"
            )
        return rows, directions

    def _output_weights(self, output: object) -> Array:
        """Return what outputs are multiplied by to make one number."""
        if output is None:
            if self.n_out > 1:
                raise ValueError(
                    f"output must be given, as there are {self.n_out}: the index of "
                    "one, or weights of all"
                )
            return np.ones(1, self.dtype)
        if isinstance(output, (bool, np.bool_)):
            raise TypeError(f"output must be an index or weights, got {output}")
        if isinstance(output, (int, np.integer)):
            index = operator.index(output)
            if not 0 <= index < self.n_out:
                raise ValueError(
                    f"output must be an index from 0 to {self.n_out - 1}, got {index}"
                )
            weights = np.zeros(self.n_out, self.dtype)
            weights[index] = 1
            return weights
        weights = _validate.convert("output", output, self.dtype)
        if weights.shape != (self.n_out,):
            raise ValueError(
                f"output must be an index or weights of shape ({self.n_out},), "
                f"got {_validate.describe(weights)}"
            )
        return weights

    # Training -----------------------------------------------------------------------

    def value_and_grad(
        self,
        x: npt.ArrayLike,
        y: TargetLike,
        loss: Loss | Callable[..., Any],
        sample_weight: npt.ArrayLike | None = None,
        *,
        training: bool = False,
    ) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to `params`.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows.
        y : (B, n_out), or (B,) if n_out is 1
            Targets; for `fastmlp.CrossEntropy` class labels, (B,), as well; other
            losses say what they take.
        loss : Loss or callable
            Such as ``fm.MSE()``; a function (pred, target) -> (value, gradient) is made
            a `fastmlp.CustomLoss`.
        sample_weight : (B,), optional
            Weights of the rows: finite, none negative, not all zero.
        training : bool
            As of `forward`.

        Returns
        -------
        value : float
            The loss.
        grads : ndarray (n_params,)
            Its gradient, in the order of `params`.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape, and for labels out of range.

        Notes
        -----
        Labels out of range are refused, but the values of x and of other targets are
        used as they are: `fit` alone checks that they are finite, and that
        probabilities lie from 0 to 1 and, for `fastmlp.CrossEntropy`, sum to 1.
        """
        if training is not False and training is not True:
            training = _validate.flag("training", training)
        if not isinstance(loss, Loss):
            loss = as_loss(loss)
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight)
        if loss.core is None:
            return custom.value_and_grad(self, x, y, loss, sample_weight, training)
        result = self.core.value_and_grad(x, y, loss.core, sample_weight, training)
        if result is NotImplemented:
            rows, target, weight = arguments.batch(self, x, y, loss, sample_weight)
            result = accepted(
                self.core.value_and_grad(rows, target, loss.core, weight, training)
            )
        return result

    def train_step(
        self,
        x: npt.ArrayLike,
        y: TargetLike,
        loss: Loss | Callable[..., Any],
        optimizer: Optimizer,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Take one step of the optimiser on one batch.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows.
        y : (B, n_out), or (B,) if n_out is 1
            Targets; for `fastmlp.CrossEntropy` class labels, (B,), as well; other
            losses say what they take.
        loss : Loss or callable
            Such as ``fm.MSE()``; a function (pred, target) -> (value, gradient) is made
            a `fastmlp.CustomLoss`.
        optimizer : Optimizer
            Such as ``fm.Adam()``. It belongs to the first model it trains.
        sample_weight : (B,), optional
            Weights of the rows: finite, none negative, not all zero.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        DivergenceError
            If the loss is not finite; the step is not taken.
        TypeError, ValueError
            For arrays of a wrong kind or shape, for labels out of range, and if the
            optimiser belongs to another model; nothing has changed then.

        Notes
        -----
        Labels out of range are refused, but the values of x and of other targets are
        used as they are: `fit` alone checks that they are finite, and that
        probabilities lie from 0 to 1 and, for `fastmlp.CrossEntropy`, sum to 1.
        """
        if not (isinstance(loss, Loss) and isinstance(optimizer, Optimizer)):
            loss = as_loss(loss)
            arguments.check_optimizer(optimizer)
        if optimizer._owner is not self._self:
            arguments.claim(self, optimizer)
        if optimizer._schedule is not None:
            optimizer._set_lr()
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight)
        core = loss.core
        if core is None:
            return custom.train_step(self, x, y, loss, optimizer, sample_weight)
        value = self.core.train_step(x, y, core, optimizer.core, sample_weight)
        if value is NotImplemented:
            rows, target, weight = arguments.batch(self, x, y, loss, sample_weight)
            value = accepted(
                self.core.train_step(rows, target, core, optimizer.core, weight)
            )
        return value

    def evaluate(
        self,
        x: npt.ArrayLike,
        y: TargetLike,
        loss: Loss | Callable[..., Any],
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows.
        y : (B, n_out), or (B,) if n_out is 1
            Targets; for `fastmlp.CrossEntropy` class labels, (B,), as well; other
            losses say what they take.
        loss : Loss or callable
            Such as ``fm.MSE()``; a function (pred, target) -> (value, gradient) is made
            a `fastmlp.CustomLoss`.
        sample_weight : (B,), optional
            Weights of the rows: finite, none negative, not all zero.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong kind or shape, and for labels out of range.

        Notes
        -----
        Labels out of range are refused, but the values of x and of other targets are
        used as they are: `fit` alone checks that they are finite, and that
        probabilities lie from 0 to 1 and, for `fastmlp.CrossEntropy`, sum to 1.
        """
        if not isinstance(loss, Loss):
            loss = as_loss(loss)
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight)
        core = loss.core
        if core is None:
            return custom.evaluate(self, x, y, loss, sample_weight)
        value = self.core.evaluate(x, y, core, sample_weight)
        if value is NotImplemented:
            rows, target, weight = arguments.batch(self, x, y, loss, sample_weight)
            value = accepted(self.core.evaluate(rows, target, core, weight))
        return value

    def fit(
        self,
        x: Any,
        y: TargetLike | None = None,
        *,
        loss: Loss | Callable[..., Any],
        optimizer: Optimizer | Solver,
        epochs: int,
        batch_size: int | None = None,
        shuffle: bool = True,
        sample_weight: npt.ArrayLike | None = None,
        validation_data: tuple[Any, ...] | None = None,
        metrics: Iterable[str | Callable[..., Any]]
        | Mapping[str, str | Callable[..., Any]] = (),
        callbacks: Iterable[Callback | Callable[[MLP, History], Any]] = (),
        progress: bool | None = None,
        seed: Seed | None = None,
        steps_per_epoch: int | None = None,
    ) -> History:
        """Train for some epochs.

        Ctrl-C ends the training between two steps: the model and its `history` stay as
        they are then, and KeyboardInterrupt goes on to the caller. Another fit takes
        the broken epoch from its beginning, in the same order; to go on with its next
        step instead, exactly as if nothing had happened, use
        ``fm.Checkpoint(path, on_interrupt=True)`` and ``fm.Checkpoint.load``.

        Parameters
        ----------
        x : (N, n_in), or iterable or function
            Samples as rows, all finite. Without ``y``, for data that do not fit in
            memory: batches, each a tuple (x, y) or (x, y, sample_weight) and a step of
            its own. An iterable (a list, a data loader) is gone through anew in each
            epoch; a function returns such an iterable for an epoch, and is handed the
            epoch's number, from 0 over all fits, if it takes an argument; of an
            iterator, such as a generator, that gives its batches but once, each epoch
            takes the next ``steps_per_epoch`` (of an epoch that goes on from a
            checkpoint within it, those that were left).
        y : (N, n_out), or (N,) if n_out is 1, optional
            Targets, all finite; for `fastmlp.CrossEntropy` class labels, (N,), as well.
            Probabilities must lie from 0 to 1 and those of classes sum to 1.
        loss : Loss or callable
            What to minimise, such as ``fm.CrossEntropy()``; a function (pred, target)
            -> (value, gradient) is made a `fastmlp.CustomLoss`, and steps come from
            Python one by one.
        optimizer : Optimizer or Solver
            Such as ``fm.Adam()`` or ``fm.LBFGS()``. It belongs to the first model that
            it trains.
        epochs : int
            How many times to go through all samples; 0 is allowed.
        batch_size : int, optional
            Samples in a step. The last step of an epoch takes what is left; all samples
            make one step if they are no more than this. To be left out where x is
            batches, and for solvers that take all samples at once.
        shuffle : bool
            Take the samples of each epoch in another random order; batches come in
            their own.
        sample_weight : (N,), optional
            Weights of the samples: finite, none negative, not all zero.
        validation_data : tuple, optional
            (x, y) or (x, y, sample_weight): loss and metrics on them are taken after
            each epoch.
        metrics : sequence or dict, optional
            Names from `fastmlp.metrics` ("accuracy", "r2", "mae", "mse", "rmse"),
            functions of (pred, target) that return a number (and that are handed
            sample_weight by that name if they have such an argument and there are
            weights), or a dict that names them. They are taken on the validation data,
            in the same pass as their loss, as "val_accuracy" and so on in
            ``history.metrics``; without validation data on the training data after the
            epoch, as "accuracy" and so on, which costs a pass of inference over all of
            them: about half of the epoch.
        callbacks : sequence of Callback or function
            Called between epochs, and between steps if they ask for it, see
            `fastmlp.callbacks`.
        progress : bool, optional
            Show progress on standard error; None does so if that is a terminal.
        seed : int, sequence of int, SeedSequence, BitGenerator or Generator, optional
            The order of samples is a function of the seed and the epoch. An int, below
            2⁶⁴, gives the orders of that seed from its first epoch on; anything else
            that ``numpy.random.default_rng`` takes draws one. None goes on with the
            model's own: so two fits in a row see different orders, and training for
            6 epochs and then for 4, stored and loaded in between or not, is the same as
            for 10.
        steps_per_epoch : int, optional
            How many batches make an epoch, where x is batches; None takes all.

        Returns
        -------
        History
            Losses, metrics and times by epoch; also kept as `history`.

        Raises
        ------
        DivergenceError
            If a loss or gradient is not finite. The message says in which epoch, step
            and layer, with which learning rate, and why, as far as it shows. The model
            and the optimiser are at their last good state; `history` is kept.
        TypeError, ValueError
            For arguments of a wrong kind, shape or range; nothing has changed then. A
            batch that is wrong, or one that does not come, ends the training there.
        """
        return session.fit(
            self,
            x,
            y,
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            sample_weight=sample_weight,
            validation_data=validation_data,
            metrics=metrics,
            callbacks=callbacks,
            progress=progress,
            seed=seed,
            steps_per_epoch=steps_per_epoch,
        )

    def polyak_(self, other: MLP, tau: float) -> Self:
        """Move the parameters towards another model's: θ ← θ + τ (θ' - θ), in place.

        The update of target networks (Polyak & Juditsky 1992; Lillicrap et al. 2016),
        also of running statistics if there are any.

        Parameters
        ----------
        other : MLP
            The model to move towards, of the same dtype and shapes of parameters.
        tau : float
            τ, from 0 (nothing changes) to 1 (the parameters become the other's).

        Returns
        -------
        MLP
            This model.

        Raises
        ------
        TypeError, ValueError
            For what is no such model, and for τ out of range; nothing has changed then.
        """
        if not isinstance(other, MLP):
            raise TypeError(f"other must be a fm.MLP, got {_validate.describe(other)}")
        tau = _validate.real("tau", tau, 0.0, 1.0)
        if other.dtype != self.dtype:
            raise TypeError(f"other must have dtype {self.dtype}, got {other.dtype}")
        shapes = [[w.shape for w in mlp.weights] for mlp in (self, other)]
        if shapes[0] != shapes[1] or self.n_params != other.n_params:
            raise ValueError(
                f"other must have {self.n_params} parameters with weights of shapes "
                f"{shapes[0]}, got {other.n_params} with {shapes[1]}"
            )
        if self.buffers.size != other.buffers.size:
            raise ValueError(
                f"other must have {self.buffers.size} running statistics, got "
                f"{other.buffers.size}"
            )
        self.core.interpolate(other.core, tau)
        return self

    def _checked_weights(self, sample_weight: object) -> Array:
        return _validate.weights("sample_weight", sample_weight, self.dtype)

    # Other formats ------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, which `fastmlp.load` reads.

        Parameters
        ----------
        path : str or path-like
            The file. It is replaced in one step: whatever happens, there is a whole
            file, the new one or the one before.

        Raises
        ------
        TypeError, ValueError
            If ``path`` is no path, or there is something that is no file.
        OSError
            If it cannot be written; what was there is there as before.
        ImportError
            Without the ``safetensors`` package.

        Notes
        -----
        The arrays are those of `state_dict`, by torch's names and in its layout, and
        ``safetensors.torch.load_file`` reads them. The architecture is in the metadata,
        as JSON, with the seed of what training draws and how far it has come, and a
        SHA-256 of everything. The same model gives the same file; `history` is not in
        it. Only the names of custom functions are stored; `fastmlp.load` needs
        the functions.
        """
        from ._formats import model_file

        model_file.save(self, path)

    def to_torch(self) -> torch.nn.Sequential:
        """Return a copy of the network as a PyTorch module.

        Returns
        -------
        torch.nn.Sequential
            With parameters of its own, the same bits by the names of `state_dict`, on
            the CPU and in inference mode: ``eval()`` has been called, ``train()`` makes
            dropout drop and batch normalisation learn. Residual blocks are modules with
            a ``body`` and a ``projection``. PyTorch's random numbers are not touched.

        Raises
        ------
        ImportError
            Without PyTorch.
        TypeError
            If an activation is a custom function.

        Notes
        -----
        Outputs agree to rounding, as PyTorch sums in another order. The way back is
        `fastmlp.from_torch`.
        """
        from ._formats import to_torch

        return to_torch.to_torch(self)

    def as_torch_module(self) -> torch.nn.Module:
        """Return a PyTorch module that computes with this very network.

        It can stand in the middle of a PyTorch model: its forward and backward are
        fastmlp's, gradients flow through to its inputs, and PyTorch's optimisers train
        this model in place.

        Returns
        -------
        torch.nn.Module
            Takes tensors (…, n_in) of the model's dtype on the CPU, without a copy if
            they are contiguous. Its one parameter, ``params``, is the memory of
            `params`, and the buffer ``statistics`` that of `buffers`, if there is
            `BatchNorm`; ``mlp`` is this model. Pickles and deep copies have a model of
            their own.

        Raises
        ------
        ImportError
            Without PyTorch.

        Notes
        -----
        Like every new module it is in training mode, in which `Dropout` drops and
        `BatchNorm` takes the statistics of the batch; call ``eval()`` for inference.
        Several calls may be in one graph; each is differentiated with its own masks
        and statistics. Backward after the last call goes on from what that has kept;
        after others it computes the forward pass once more.

        PyTorch notices, and refuses, if its optimisers have moved the parameters
        between forward and backward, but not if fastmlp has or writes into `params`.
        Second derivatives (``create_graph=True``) and those of forward mode are
        refused, as are moves to another device or dtype. Several modules of one model
        have its parameters, and each a gradient of its own.
        """
        from ._formats import to_torch

        return to_torch.MLPModule(self)

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        opset: int = 17,
        input_name: str = "x",
        output_name: str = "y",
    ) -> None:
        """Write the network, as it is in inference, as an ONNX model.

        Needs the ``onnx`` package: ``pip install 'fastmlp[onnx]'``.

        Parameters
        ----------
        path : str or path
            The file, written in one step: it is there as a whole or not at all.
        opset : int
            The version of ONNX's set of operators, at least 17. All versions get the
            same operators; only what reads the file may want a certain one.
        input_name : str
            Of the input, (N, n_in) in the model's dtype, any number N of rows.
        output_name : str
            Of the output, (N, n_out) in the same dtype.

        Raises
        ------
        ImportError
            Without the onnx package.
        TypeError, ValueError
            For arguments of a wrong kind, for activations written in Python, and for
            models larger than ONNX's files can be, 2 GiB.

        Notes
        -----
        Weights (out, in) and biases have the names of `state_dict`. `Dropout` is left
        out, `BatchNorm` after a dense layer without activation is part of that layer,
        as in `fold`. Operators are chosen so that onnxruntime runs the model in
        float64 as well, and agrees within 1e-6 of the largest output (of float64 models
        far closer) where the network itself is well conditioned in its dtype. It adds
        in another order, so that bits differ.
        """
        from ._formats import to_onnx

        to_onnx.to_onnx(
            self, path, opset=opset, input_name=input_name, output_name=output_name
        )

    def to_c(
        self, path: str | os.PathLike[str], *, name: str = "mlp", jacobian: bool = False
    ) -> None:
        """Write the network as one C99 header, which needs nothing but a C library.

        ``#include`` it and call ``mlp_predict(x, y)``: y has the same bits as of
        ``mlp(x)``, for one row.

        Parameters
        ----------
        path : str or path
            The file. It is replaced in one step, or left as it is.
        name : str
            What all names in the header start with, an identifier of C: ``mlp`` makes
            ``mlp_predict``, ``mlp_jacobian``, ``MLP_N_IN`` and ``MLP_N_OUT``. Headers
            of different names go into one program.
        jacobian : bool
            Whether there is a function for the Jacobian too, ``mlp_jacobian(x, y,
            jac)``: the same bits as of `predict` and `jacobian`.

        Raises
        ------
        TypeError, ValueError
            For a name that is none or a keyword of C or C++, and for a model with an
            `Activation` that is a custom function.
        OSError
            If the file cannot be written.

        Notes
        -----
        The functions allocate nothing, keep no state and may be called by several
        threads; what they take of the stack is said at the top of the header. Layers
        are as in inference: dropout does nothing, batch normalisation has its running
        statistics. Weights are hexadecimal literals, which are exact, 17 bytes of text
        for each in float32 and 24 in float64; so they are known to C99 and later, and
        to C++17 and later. Megabytes of them are written as they are made, but take
        compilers their time.

        The bits hold wherever ``float`` and ``double`` are those of IEEE 754 in the
        default mode and ``fma`` rounds once, as C99 has it; not with ``-ffast-math``,
        which the header refuses. Tell the compiler that there is an instruction for
        ``fma`` (on x86-64 ``-mfma`` or ``-march=native``): without one the results are
        the same, later.
        """
        from ._formats.c import header

        header.to_c(self, path, name=name, jacobian=jacobian)

    def predictor(
        self,
        rows: int | None = None,
        *,
        x: Array | None = None,
        out: Array | None = None,
    ) -> _core.Predictor:
        """Return inference bound to buffers: for loops that count microseconds.

        All that a call looks at otherwise (kinds, shapes, overlaps of arrays, where the
        result goes) is settled here, and a call allocates nothing.

        Parameters
        ----------
        rows : int, optional
            How many samples a call takes; None is for one sample, without that axis.
        x : ndarray (rows, n_in) or (n_in,), optional
            The input buffer, such as one that sensors are read into: of the model's
            dtype, C-contiguous, never copied. None makes one, of zeros.
        out : ndarray (rows, n_out) or (n_out,), optional
            The output buffer, writeable and apart from ``x`` too. None makes one.

        Returns
        -------
        predictor : callable
            ``predictor()`` computes the outputs for what stands in its buffer ``x``
            then; ``predictor(x)`` those for another array of that shape, which is
            converted if it is of another kind. Both write the buffer ``y`` and return
            it: the next call overwrites it. Attributes: ``x`` and ``y``.

        Raises
        ------
        TypeError, ValueError
            For buffers of a wrong kind or shape; from calls for such arguments.
        RuntimeError
            From calls within one of the same predictor, be it another thread's: make
            one for each thread.

        Notes
        -----
        The model is not copied: what training changes is seen by the next call. The
        bits are those of `predict`.

        Examples
        --------
        >>> import numpy as np, fastmlp as fm
        >>> mlp = fm.MLP([3, 16, 2], seed=0)
        >>> policy = mlp.predictor()
        >>> policy.x[:] = 0.1, 0.2, 0.3
        >>> bool((policy() == mlp(policy.x)).all())
        True
        """
        if rows is not None:
            rows = _validate.count("rows", rows, 1)
        if x is not None and isinstance(x, np.ndarray) and x.ndim == 2:
            rows = len(x) if rows is None else rows
        batch = () if rows is None else (rows,)
        if x is None:
            x = np.zeros((*batch, self.n_in), self.dtype)
        if out is None:
            out = np.zeros((*batch, self.n_out), self.dtype)
        shape = (*batch, self.n_in)
        rows_in = _validate.exact("x", x, self.dtype, shape, writeable=False)
        place = _validate.exact(
            "out", out, self.dtype, (*batch, self.n_out), writeable=True
        )
        _validate.apart("out", place, "x", rows_in)
        self._check_apart("x", rows_in)
        self._check_apart("out", place)
        n_in, dtype = self.n_in, self.dtype

        def convert(given: object) -> Array:
            array = _validate.inputs("x", given, n_in, dtype, vector=rows is None)
            if array.shape != shape:
                raise ValueError(
                    f"x must have shape {shape}, as this predictor was made for, "
                    f"got {_validate.describe(given)}"
                )
            return array.copy() if np.may_share_memory(array, place) else array

        return _core.Predictor(self.core, rows_in, place, convert)

    # Copies and text ----------------------------------------------------------------

    def copy(self) -> Self:
        """Return an independent copy with the same parameters, ready to go on alike."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        derived = self.__dict__.keys() & _DERIVED
        state = {k: v for k, v in self.__dict__.items() if k not in derived}
        return {
            **state,
            "params": self._params.copy(),
            "buffers": self._buffers.copy(),
            "training_state": self.core.training_state,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        params, buffers = state.pop("params"), state.pop("buffers")
        training_state = state.pop("training_state")
        if "_order_seed" in state:  # pickled by version 0.1.0
            seed, done = state.pop("_order_seed"), state.pop("_epochs_done")
            self.sequence = EpochSequence(seed, done, state.pop("_place", None))
        self.__dict__.update(state)
        self._build()
        self._params[:] = params
        self._buffers[:] = buffers
        self.core.training_state = training_state

    def fold(self) -> MLP:
        """Return a model for inference alone: the same outputs, with less to do.

        Each `BatchNorm` beside a dense layer becomes part of that layer (after one
        without activation, or before one); `Dropout` is left out. Outputs agree to
        rounding.

        Returns
        -------
        MLP
            A new model of the same dtype.
        """
        layers, arrays = fold(self._layers, self._views.named)
        folded = MLP([self.n_in, *layers], init="zeros", dtype=self.dtype, seed=0)
        for name, view in folded._views.named.items():
            view[...] = arrays[name]
        return folded

    def summary(self) -> str:
        """Return a table of the layers.

        Returns
        -------
        str
            A line per layer, those of residual blocks indented, and the totals: name
            (as in `state_dict`), layer, output shape, activation, parameters, FLOPs for
            a row in inference and, about, in a training step (the optimiser, whose work
            does not grow with the rows, not counted), memory of the parameters, and of
            the outputs that a row leaves. A multiplication and an addition are two
            FLOPs, an activation one per element.
        """
        return summary.summary(self)

    def __repr__(self) -> str:
        given = dict(self._given)
        parts = [repr(given.pop("layers"))]
        parts += [f"{k}={v!r}" for k, v in given.items() if v != _DEFAULTS[k]]
        return f"{type(self).__name__}({', '.join(parts)})"


# What __repr__ need not say.
_DEFAULTS = {
    "activation": "relu",
    "output_activation": "identity",
    "init": "auto",
    "bias": True,
    "dtype": "float32",
}

# What _build makes anew, and so is not pickled.
_DERIVED = frozenset(
    (
        "_layers",
        "_n_in",
        "_n_out",
        "_n_params",
        "_dtype",
        "core",
        "_params",
        "_buffers",
        "_views",
        "_weights",
        "_biases",
        "forward_shape",
        "_self",
    )
)


def _counter(name: str) -> str:
    """Return the name of torch's count of batches beside a running variance."""
    return name.removesuffix("running_var") + "num_batches_tracked"
