"""The multilayer perceptron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _core, _validate, initializers
from ._core import Loss as NativeLoss
from ._formats.exports import Exports
from ._network import resolve, summary
from ._network.adapt import Adaptation
from ._network.derivatives import Derivatives
from ._network.fold import fold
from ._network.inputs import dense, inputs, numbers
from ._network.model import (
    EpochSequence,
    claim,
    empty,
    register,
    set_bias_init,
    set_compute_dtype,
)
from ._network.predictor import predictor
from ._training import arguments, custom, seeds, session
from ._validate import accepted
from .layers import checked, checked_activation
from .losses import Loss, as_loss, masked
from .optimizers import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    import numpy.typing as npt
    import torch

    from ._validate import Array, Seed
    from .callbacks import Callback
    from .initializers import Init
    from .layers import Activation, Layer
    from .losses import TargetLike
    from .metrics import History
    from .solvers import Solver


@register
class MLP(Adaptation, Derivatives, Exports):
    """A multilayer perceptron: h₀ = x, hᵢ = layerᵢ(hᵢ₋₁), and the last h is the output.

    Each layer is dense, act(h @ W + b), or one of the other kinds in `fastmlp.layers`.

    Parameters
    ----------
    layers : sequence of int or Layer
        Width of the input, then the layers: an int is the width of a dense layer; other
        layers are objects of the classes in `fastmlp.layers`. Hidden layers are
        optional.
    activation : str or Activation
        Activation of dense layers that do not name one: one of ``fastmlp.ACTIVATIONS``,
        whose formulas are in `fastmlp.layers`, or an `Activation` with such a name.
    output_activation : str or Activation
        Activation of the last dense layer if it does not name one.
    init : str, Initializer or callable
        Initialiser of the weights; see `fastmlp.initializers`.
    bias_init : str, Initializer or callable, optional
        Initialiser of the biases. None means the biases that go with the initialiser of
        the weights: mostly 0.
    bias : bool
        Whether the layers given as widths have biases.
    dtype : {"float32", "float64"}
        Dtype of parameters, inputs and outputs.
    compute_dtype : {"float32", "float64", "bfloat16"}, optional
        Type of the operands of matrix products; None means ``dtype``. With
        ``"bfloat16"``, which needs the dtype float32, training and `predict` round the
        operands to 8 significant bits and add up in float32, which is faster on CPUs
        with instructions for it; see the notes.
    seed : int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Seed of the initial parameters, of the sample orders in `fit` and of dropout:
        anything that ``numpy.random.default_rng`` takes, except bools. None draws a
        seed from the operating system.

    Attributes
    ----------
    n_in, n_out : int
        Widths of input and output; read-only, like the next three attributes.
    n_params : int
        Number of parameters.
    dtype : numpy.dtype
        Dtype of parameters, inputs and outputs.
    compute_dtype : str
        Type of the operands of matrix products; read-only.
    layers : tuple of Layer
        The layers with all their fields set.
    history : History or None
        History of the last `fit`, even if it was interrupted.

    Raises
    ------
    TypeError, ValueError
        If a width is not a positive int, a name is unknown, or an item of ``layers`` is
        neither an int nor a layer.

    Notes
    -----
    Inputs may be anything in CPU memory that ``np.asarray`` takes or that has
    ``__dlpack__``. C-contiguous arrays of the model's dtype are used as they are,
    including read-only arrays, memory maps and tensors; all others are converted once
    per call. Arrays to be written to (``out``) are never converted. A call that raises
    TypeError or ValueError leaves the model unchanged.

    Targets ``y`` have the shape of the outputs, (B, n_out), or (B,) if n_out is 1.
    `fastmlp.CrossEntropy` also takes class labels, (B,), and the docstrings of the
    other losses describe their targets. A ``sample_weight`` holds one weight per row;
    the weights are finite, none is negative and not all are zero. Class labels out of
    range are refused. The values of inputs and of other targets are used as they are:
    only `fit` checks that they are finite, that probabilities lie between 0 and 1 and
    that class probabilities for `fastmlp.CrossEntropy` sum to 1.

    Results are bitwise the same for any number of threads, any position of a row in a
    batch and any instruction set. This holds for ``compute_dtype="bfloat16"``, too, on
    CPUs with and without instructions for it. Parameters, gradients, the state of the
    optimiser and everything but products remain float32. Derivatives of each row
    (`jacobian`, `hessian`, `per_sample_grads`, …) and second-order solvers have float32
    operands, and sparse inputs are refused.
    """

    history: History | None

    def __init__(
        self,
        layers: Iterable[int | Layer],
        *,
        activation: str | Activation = "relu",
        output_activation: str | Activation = "identity",
        init: Init = "auto",
        bias_init: Init | None = None,
        bias: bool = True,
        dtype: npt.DTypeLike = "float32",
        compute_dtype: str | None = None,
        seed: Seed | None = None,
    ) -> None:
        # The architecture as given, for ``__repr__``.
        self._given: dict[str, Any] = {
            "layers": checked("layers", layers, n_in=True),
            "activation": checked_activation("activation", activation),
            "output_activation": checked_activation(
                "output_activation", output_activation
            ),
            "init": initializers.checked("init", init),
            "bias": _validate.flag("bias", bias),
            "dtype": _validate.float_dtype(dtype).name,
        }
        set_bias_init(self._given, bias_init)
        set_compute_dtype(self._given, compute_dtype)
        rng = seeds.generator(seed)
        self._build()

        # Draw the parameters, then the seed of the sample orders.
        by_place = dict(resolve.first_draws(self._layers, init, bias_init))
        hidden = ""
        for i, place in enumerate(self._views.places):
            how = by_place[place]
            last = i == len(self._views.places) - 1
            hidden = hidden if last and i > 0 else how.activation
            initializers.draw(
                how.init,
                rng,
                self.weights[i],
                self.biases[i],
                how.activation,
                hidden,
                bias_init=how.bias_init,
                first=i == 0,
            )
        for array, layer in self._views.others:
            array[...] = layer.first_weight(rng, array.shape)
        self.core.start_parametrizations()
        self.sequence = EpochSequence(int(rng.integers(2**63)))
        self.core.training_state = (self.sequence.seed, 0, 0)
        self.history = None

    # Inference and gradients --------------------------------------------------------

    def predict(self, x: npt.ArrayLike, out: Any = None) -> Array:
        """Return the outputs for inputs; calling the model does the same.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        out : ndarray (B, n_out) or (n_out,), optional
            Array for the result: of the model's dtype, C-contiguous, writeable, and not
            overlapping ``x``. It may also be a tensor or buffer whose memory NumPy can
            share, such as a PyTorch tensor on the CPU.

        Returns
        -------
        ndarray (B, n_out) or (n_out,)
            The outputs; ``out`` if it is given.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape.
        """
        y = self.core.predict(x, out)
        return self._predict_slowly(x, out) if y is NotImplemented else y

    __call__ = predict

    def _predict_slowly(self, x: object, out: Any) -> Array:
        rows = inputs(self, "x", x, vector=True)
        if out is not None:
            shape = (*rows.shape[:-1], self.n_out)
            place = _validate.shared("out", out)
            place = _validate.exact("out", place, self.dtype, shape, writeable=True)
            _validate.apart("out", place, "x", numbers(rows))
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
        """Return a predictor with fixed buffers, for loops in which microseconds count.

        The dtypes, shapes and overlaps of the buffers are checked once, here, whereas
        `predict` checks its arrays in every call. Calling the predictor allocates no
        memory unless its argument has to be converted.

        Parameters
        ----------
        rows : int, optional
            Number of samples per call; None means the number of rows of ``x`` if that
            is 2-D, and otherwise a single sample, whose buffers have no axis for rows.
        x : ndarray (rows, n_in) or (n_in,), optional
            Input buffer, such as one that sensors write to: of the model's dtype and
            C-contiguous; it is never copied. None makes a buffer filled with zeros.
        out : ndarray (rows, n_out) or (n_out,), optional
            Output buffer, with the same requirements; it must also be writeable and not
            overlap ``x``. None makes a new buffer.

        Returns
        -------
        predictor : callable
            ``predictor()`` computes the outputs for the current content of its buffer
            ``x``; ``predictor(x)`` computes the outputs for another array of the same
            shape, which is converted if necessary. Both write the outputs to the buffer
            ``y`` and return this buffer, so the next call overwrites the result.
            Attributes: ``x`` and ``y``.

        Raises
        ------
        TypeError, ValueError
            If a buffer, or the argument of a call, has the wrong kind or shape.
        RuntimeError
            If a call is made during another call of the same predictor, for example in
            another thread: make one predictor for each thread.

        Notes
        -----
        The model is not copied: after training, the next call uses the new parameters.
        The results have the same bits as those of `predict`.

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
        """Return a PyTorch module that runs this network and shares its parameters.

        The module can be part of a PyTorch model: fastmlp computes its forward and
        backward passes, gradients flow through to its inputs, and PyTorch's optimisers
        train this model in place.

        Returns
        -------
        torch.nn.Module
            Module for CPU tensors (…, n_in) of the model's dtype, which are not copied
            if they are contiguous. Its only parameter, ``params``, is the memory of
            `params`; with `BatchNorm` its buffer ``statistics`` is the memory of
            `buffers`; its attribute ``mlp`` is this model. Pickles and deep copies
            contain a copy of the model.

        Raises
        ------
        ImportError
            If PyTorch is not installed.

        Notes
        -----
        Like every new PyTorch module, this one is in training mode, in which `Dropout`
        drops elements and `BatchNorm` uses the statistics of the batch; call ``eval()``
        for inference. A graph may contain several calls, each of which is
        differentiated with its own masks and statistics. The backward pass of the last
        call reuses the values that its forward pass kept; the backward pass of an
        earlier call first repeats its forward pass.

        PyTorch detects parameters that its own optimisers changed between forward and
        backward, and raises an error, but it cannot detect changes by fastmlp or by
        writing to `params`. Second derivatives (``create_graph=True``) and forward-mode
        derivatives are refused, as are moves to another device or dtype. Several
        modules of one model share its parameters, but each has its own gradient.
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
        mask: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to `params`.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows.
        y : (B, n_out), or (B,) if n_out is 1
            Targets in a form that the loss takes; see the notes of `fastmlp.MLP`.
        loss : Loss or callable
            Loss such as ``fm.MSE()``; a function (pred, target) -> (value, gradient) is
            turned into a `fastmlp.CustomLoss`.
        sample_weight : (B,), optional
            Weights of the rows.
        training : bool
            Whether dropout and batch normalisation are in training mode, as in
            `forward`.
        mask : bool, (B,) or like ``y``, optional
            Array that is True where there is a target; see `fastmlp.losses`.

        Returns
        -------
        value : float
            The loss.
        grads : ndarray (n_params,)
            Gradient of the loss, in the order of `params`.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape, or a label is out of range.
        """
        if training is not False and training is not True:
            training = _validate.flag("training", training)
        if not isinstance(loss, Loss):
            loss = as_loss(loss)
        if mask is not None:
            loss, y = masked(loss, "y", y, mask)
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight, loss.core)
        if training:
            self._set_rates()
        if loss.core is None:
            return custom.value_and_grad(self, x, y, loss, sample_weight, training)
        try:
            result = self.core.value_and_grad(x, y, loss.core, sample_weight, training)
            if result is NotImplemented:
                rows, target, weight = arguments.batch(self, x, y, loss, sample_weight)
                result = accepted(
                    self.core.value_and_grad(rows, target, loss.core, weight, training)
                )
        except ValueError as error:
            raise arguments.explained(self, x, y, loss, sample_weight, error) from None
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
            Targets in a form that the loss takes; see the notes of `fastmlp.MLP`.
        loss : Loss
            Loss such as ``fm.MSE()``; not a function.
        sample_weight : (B,), optional
            Weights of the rows.

        Returns
        -------
        ndarray (B, n_params)
            Row b is the gradient of sample b's loss, times the sample's weight. The
            loss of a sample is the sum over its outputs if the reduction is "sum", and
            the mean over its outputs if it is "mean" (cross-entropy has one value per
            sample). With "sum", the rows therefore add up to the gradient from
            `value_and_grad`; with "mean", they add up to that gradient times B, or
            times the sum of the weights (sample weights times class weights).

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape, a label is out of range, or the
            loss is a function, which does not define a loss for a single row.
        """
        loss = as_loss(loss)
        if loss.core is None:
            raise TypeError(
                "loss must be one of fastmlp's own losses, because a custom loss is "
                "computed from a whole batch and does not define the loss of each row; "
                f"got {loss!r}"
            )
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight, None)
        try:
            result = self.core.per_sample_grads(x, y, loss.core, sample_weight)
            if result is NotImplemented:
                rows, target, weight = arguments.batch(self, x, y, loss, sample_weight)
                result = accepted(
                    self.core.per_sample_grads(dense(rows), target, loss.core, weight)
                )
        except ValueError as error:
            raise arguments.explained(self, x, y, loss, sample_weight, error) from None
        return result

    def train_step(
        self,
        x: npt.ArrayLike,
        y: TargetLike,
        loss: Loss | Callable[..., Any],
        optimizer: Optimizer,
        sample_weight: npt.ArrayLike | None = None,
        *,
        mask: npt.ArrayLike | None = None,
    ) -> float:
        """Take one step of the optimiser on one batch.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows.
        y : (B, n_out), or (B,) if n_out is 1
            Targets in a form that the loss takes; see the notes of `fastmlp.MLP`.
        loss : Loss or callable
            Loss such as ``fm.MSE()``; a function (pred, target) -> (value, gradient) is
            turned into a `fastmlp.CustomLoss`.
        optimizer : Optimizer
            Optimiser such as ``fm.Adam()``. It belongs to the first model that it
            trains.
        sample_weight : (B,), optional
            Weights of the rows.
        mask : bool, (B,) or like ``y``, optional
            Array that is True where there is a target; see `fastmlp.losses`.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        DivergenceError
            If the loss is not finite; the step is not taken.
        TypeError, ValueError
            If an array has the wrong kind or shape, a label is out of range, or the
            optimiser belongs to another model. The model and the optimiser are left
            unchanged.
        """
        if mask is not None:
            loss, y = masked(as_loss(loss), "y", y, mask)
        # A step of a small model takes a microsecond, of which two isinstance calls
        # would be a noticeable part. Therefore cheaper tests recognise the usual
        # arguments: a built-in loss has a core of this type, and an optimiser that
        # passed the checks in an earlier call has this model as its owner.
        core: _core.Loss | None
        try:
            core, owner = loss.core, optimizer._owner  # type: ignore[union-attr]
        except AttributeError:  # a function as a loss, or a mistake
            core = owner = None
        if type(core) is not NativeLoss or owner is not self._self:
            loss = as_loss(loss)
            arguments.check_optimizer(optimizer)
            if owner is not self._self:  # once for each optimiser
                arguments.check_output(self, loss)
            claim(self, optimizer)
            core = loss.core
        if optimizer._timelines:
            optimizer._set_scheduled()
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight, core)
        if core is None:
            return custom.train_step(
                self, x, y, as_loss(loss), optimizer, sample_weight
            )
        if self._rates is not None:
            self._set_rates(optimizer.step_count)
        try:
            value = self.core.train_step(x, y, core, optimizer.core, sample_weight)
            if value is NotImplemented:
                batch = arguments.batch(self, x, y, as_loss(loss), sample_weight)
                rows, target, weight = batch
                value = accepted(
                    self.core.train_step(rows, target, core, optimizer.core, weight)
                )
        except ValueError as error:
            raise arguments.explained(
                self, x, y, as_loss(loss), sample_weight, error
            ) from None
        return value

    def evaluate(
        self,
        x: npt.ArrayLike,
        y: TargetLike,
        loss: Loss | Callable[..., Any],
        sample_weight: npt.ArrayLike | None = None,
        *,
        mask: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows.
        y : (B, n_out), or (B,) if n_out is 1
            Targets in a form that the loss takes; see the notes of `fastmlp.MLP`.
        loss : Loss or callable
            Loss such as ``fm.MSE()``; a function (pred, target) -> (value, gradient) is
            turned into a `fastmlp.CustomLoss`.
        sample_weight : (B,), optional
            Weights of the rows.
        mask : bool, (B,) or like ``y``, optional
            Array that is True where there is a target; see `fastmlp.losses`.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape, or a label is out of range.
        """
        if not isinstance(loss, Loss):
            loss = as_loss(loss)
        if mask is not None:
            loss, y = masked(loss, "y", y, mask)
        if sample_weight is not None:
            sample_weight = self._checked_weights(sample_weight, loss.core)
        core = loss.core
        if core is None:
            return custom.evaluate(self, x, y, loss, sample_weight)
        try:
            value = self.core.evaluate(x, y, core, sample_weight)
            if value is NotImplemented:
                rows, target, weight = arguments.batch(self, x, y, loss, sample_weight)
                value = accepted(self.core.evaluate(rows, target, core, weight))
        except ValueError as error:
            raise arguments.explained(self, x, y, loss, sample_weight, error) from None
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
        validation_data: Any = None,
        metrics: Iterable[str | Callable[..., Any]]
        | Mapping[str, str | Callable[..., Any]] = (),
        callbacks: Iterable[Callback | Callable[[MLP, History], Any]] = (),
        progress: bool | None = None,
        seed: Seed | None = None,
        steps_per_epoch: int | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> History:
        """Train for some epochs.

        Ctrl-C ends the training between two steps: the model and its `history` keep
        their current state, and KeyboardInterrupt is raised. The next fit starts the
        interrupted epoch again from its beginning, in the same order. To resume with
        the next step instead, exactly as if nothing had happened, use
        ``fm.Checkpoint(path, on_interrupt=True)`` and ``fm.Checkpoint.load``.

        Parameters
        ----------
        x : (N, n_in), or iterable or function
            Samples as rows, all finite. For data that do not fit in memory, leave out
            ``y`` and pass an iterable of batches as x: tuples (x, y) or (x, y,
            sample_weight), each of which makes one step; batches without rows are
            skipped. An iterable such as a list or a data loader is iterated over again
            in each epoch. A function must return such an iterable for an epoch; if the
            function takes an argument, it is passed the number of the epoch, counted
            from 0 over all fits. From an iterator such as a generator, which can be
            iterated over only once, each epoch takes the next ``steps_per_epoch``
            batches (an epoch resumed from a checkpoint takes only as many batches as it
            still lacks).
        y : (N, n_out), or (N,) if n_out is 1, optional
            Targets; for `fastmlp.CrossEntropy` also class labels, (N,). They must be
            finite unless the loss is a function. Probabilities must lie between 0 and
            1, and class probabilities must sum to 1 in each row.
        loss : Loss or callable
            Loss to minimise, such as ``fm.CrossEntropy()``; a function (pred, target)
            -> (value, gradient) is turned into a `fastmlp.CustomLoss`, for which Python
            runs the steps one by one.
        optimizer : Optimizer or Solver
            Optimiser such as ``fm.Adam()``, or solver such as ``fm.LBFGS()``. It
            belongs to the first model that it trains.
        epochs : int
            Number of passes over all samples; may be 0.
        batch_size : int, optional
            Number of samples per step. The last step of an epoch takes the samples that
            remain, which may be fewer. None is 32, except that a solver takes all
            samples at once. It must be left out if x yields batches.
        shuffle : bool
            Whether each epoch takes the samples in a new random order. If x yields
            batches, they are always used in the order in which they come.
        sample_weight : (N,), optional
            Weights of the samples: finite, none negative, not all zero.
        validation_data : tuple, or iterable or function, optional
            Data (x, y) or (x, y, sample_weight) on which loss and metrics are computed
            after each epoch; or batches of them, as x may yield them, such as a data
            loader. Outputs and targets of all batches are kept until then. All batches
            of a list, and the first one of another object that can be iterated over
            again, are also checked before the training.
        metrics : sequence or dict, optional
            Names from `fastmlp.metrics` ("accuracy", "r2", "mae", "mse", "rmse"),
            functions of (pred, target) that return a number, or a dict of such
            functions by name. A function with an argument named sample_weight is passed
            the weights if there are any. With validation data, metrics are computed on
            them in the same pass as the loss and appear as "val_accuracy" and so on in
            ``history.metrics``. Without validation data, metrics are computed on the
            training data after the epoch and appear as "accuracy" and so on; this
            inference pass costs about half as much as the epoch.
        callbacks : sequence of Callback or function
            Callbacks to call between epochs, and between steps if they define a hook
            for that; see `fastmlp.callbacks`.
        progress : bool, optional
            Whether to show progress on standard error; None shows it in a terminal or
            notebook. There, the display is a bar if the package tqdm is installed, and
            one line that changes if not. In files, True writes a line for each of the
            first ten epochs, and then one from time to time: every second at first,
            and every minute after twenty minutes.
        seed : int, sequence of int, SeedSequence, BitGenerator or Generator, optional
            Seed of the sample order, which in each epoch is a function of this seed and
            the number of the epoch. With an int below 2⁶⁴, epochs are numbered from 0
            in this fit; anything else that ``numpy.random.default_rng`` takes is used
            to draw such an int. None continues the model's own sequence of orders: two
            fits in a row use different orders, and a fit of 6 epochs followed by one of
            4, with or without saving and loading in between, is the same training as a
            fit of 10.
        steps_per_epoch : int, optional
            Number of batches per epoch if x yields batches; None takes all of them.
        mask : bool, (N,) or like ``y``, optional
            Array that is True where there is a target; see `fastmlp.losses`. In
            batches and validation data, NaN marks targets that are missing.

        Returns
        -------
        History
            Losses, metrics and times by epoch; also kept as `history`.

        Raises
        ------
        DivergenceError
            If a loss or gradient is not finite. The message names the epoch, the step,
            the layer and the learning rate, and the cause as far as it is known. The
            model and the optimiser return to their last good state; `history` is kept.
        TypeError, ValueError
            If an argument has the wrong kind, shape or range; the model and the
            optimiser are then left unchanged. However, a wrong or missing batch ends
            the training at that point.
        """
        if mask is not None:
            if y is None:
                raise TypeError(
                    "mask must be left out if x yields batches: NaN in their targets "
                    "marks those that are missing"
                )
            loss, y = masked(as_loss(loss), "y", y, mask)
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

        This is the update of target networks (Polyak & Juditsky 1992; Lillicrap et al.
        2016). Running statistics move in the same way.

        Parameters
        ----------
        other : MLP
            Model to move towards, with the same dtype and the same parameter shapes.
        tau : float
            Fraction τ, from 0 (nothing changes) to 1 (the parameters become those of
            ``other``).

        Returns
        -------
        MLP
            This model.

        Raises
        ------
        TypeError, ValueError
            If ``other`` is not such a model, or τ is out of range; the parameters are
            then left unchanged.
        """
        if not isinstance(other, MLP):
            raise TypeError(f"other must be an fm.MLP, got {_validate.describe(other)}")
        tau = _validate.real("tau", tau, 0.0, 1.0)
        if other.dtype != self.dtype:
            raise TypeError(f"other must have dtype {self.dtype}, got {other.dtype}")
        shapes = [[w.shape for w in mlp.weights] for mlp in (self, other)]
        if shapes[0] != shapes[1] or self.n_params != other.n_params:
            raise ValueError(
                f"other must have {_validate.counted(self.n_params, 'parameter')} with "
                f"weights of shapes {shapes[0]}, got "
                f"{_validate.counted(other.n_params, 'parameter')} with weights of "
                f"shapes {shapes[1]}"
            )
        if self.buffers.size != other.buffers.size:
            raise ValueError(
                f"other must have {self.buffers.size} running statistics, got "
                f"{other.buffers.size}"
            )
        self.core.interpolate(other.core, tau)
        return self

    def _checked_weights(self, sample_weight: object, loss: _core.Loss | None) -> Array:
        relative = loss is not None and loss.reduction == "mean"
        return _validate.weights(
            "sample_weight", sample_weight, self.dtype, relative=relative
        )

    # Copies and text ----------------------------------------------------------------

    def fold(self) -> MLP:
        """Return an equivalent model for inference only, with fewer operations.

        A `BatchNorm`, `Scale` or `Standardise` directly after a dense layer without
        activation, or directly before a dense layer, is merged into that layer, and
        each layer that does nothing at inference, such as `Dropout`, is removed.
        Computed weights of `Dense` layers become parameters. The outputs of both models
        agree up to rounding.

        Returns
        -------
        MLP
            A new model of the same dtype and compute_dtype; none of its parameters is
            frozen.
        """
        views = self._views_of(self._effective())
        layers, arrays = fold(self._layers, views.named)
        folded = empty(
            [self.n_in, *layers],
            self.dtype,
            self._given["init"],
            compute_dtype=self.compute_dtype,
        )
        for name, view in folded._views.named.items():
            view[...] = arrays[name]
        return folded

    def summary(self) -> str:
        """Return a table of the layers, which a notebook or prompt shows as a table.

        Returns
        -------
        str
            One line per layer, with those of residual blocks indented, and the totals.
            The columns are name (as in `state_dict`), layer, output shape, activation,
            parameters, FLOPs per row at inference and, approximately, in a training
            step (without the optimiser, whose cost does not depend on the number of
            rows), bytes of the parameters, and bytes of the outputs kept per row. A
            multiplication and an addition count as two FLOPs, and an activation counts
            as one FLOP per element. The repr of this string is its text; notebooks
            show its form in HTML.
        """
        return summary.summary(self)

    def _repr_html_(self) -> str:
        """Return the repr, which opens to diagram and summary, for notebooks."""
        from ._display import markup

        line = markup.element("code", markup.escape(repr(self)))
        return markup.element(
            "details",
            markup.element("summary", line)
            + self.diagram()._repr_html_()
            + summary.summary(self)._repr_html_(),
        )

    def __repr__(self) -> str:
        given = dict(self._given)
        parts = [repr(given.pop("layers"))]
        parts += [f"{k}={v!r}" for k, v in given.items() if v != _DEFAULTS[k]]
        return f"{type(self).__name__}({', '.join(parts)})"


# Defaults of the constructor, which ``__repr__`` does not show.
_DEFAULTS = {
    "activation": "relu",
    "output_activation": "identity",
    "init": "auto",
    "bias_init": None,
    "bias": True,
    "dtype": "float32",
    "compute_dtype": None,
}
