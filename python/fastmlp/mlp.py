"""The multilayer perceptron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _core, _validate, initializers
from ._formats.exports import Exports
from ._network import resolve, summary
from ._network.derivatives import Derivatives
from ._network.fold import fold
from ._network.model import EpochSequence, register
from ._network.predictor import predictor
from ._training import arguments, custom, seeds, session
from ._validate import accepted
from .layers import activation_name, checked
from .losses import Loss, as_loss
from .optimizers import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    import numpy.typing as npt
    import torch

    from ._validate import Array, Seed
    from .callbacks import Callback
    from .layers import Layer
    from .losses import TargetLike
    from .metrics import History
    from .solvers import Solver


@register
class MLP(Derivatives, Exports):
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
        return predictor(self, rows, x, out)

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

    # Copies and text ----------------------------------------------------------------

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
