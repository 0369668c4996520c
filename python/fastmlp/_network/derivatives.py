"""The methods of the model that differentiate its outputs."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from .._validate import accepted
from .model import Model

if TYPE_CHECKING:
    import numpy.typing as npt

    from .._validate import Array


class Derivatives(Model):
    """Outputs and their derivatives with respect to inputs and parameters.

    `jacobian` and the methods after it treat each row independently, in inference mode:
    dropout does nothing, and batch normalisation uses its running statistics.
    """

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Return the outputs for inputs, and keep what `backward` needs.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        training : bool
            Whether `Dropout` drops elements (different ones in each such call), and
            `BatchNorm` uses the statistics of the batch and updates its running
            statistics.

        Returns
        -------
        ndarray (B, n_out) or (n_out,)
            The outputs.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape, or if a model with `BatchNorm` is
            called in training mode with fewer than two rows.
        """
        if training is not False and training is not True:
            training = _validate.flag("training", training)
        if training:
            self._set_rates()
        y = self.core.forward(x, training)
        if y is NotImplemented:
            rows = _validate.inputs("x", x, self.n_in, self.dtype, vector=True)
            y = accepted(self.core.forward(np.atleast_2d(rows), training))
            y = y.reshape(*rows.shape[:-1], self.n_out)
        self.forward_shape = y.shape
        return y

    def backward(self, dy: npt.ArrayLike) -> tuple[Array, Array]:
        """Return the gradients of a scalar function of the last `forward`'s outputs.

        Parameters
        ----------
        dy : (B, n_out) or (n_out,)
            Derivative of the function with respect to those outputs.

        Returns
        -------
        dx : ndarray, shape of the inputs
            Derivative of the function with respect to the inputs.
        grads : ndarray (n_params,)
            Derivative of the function with respect to `params`, in their order.

        Raises
        ------
        RuntimeError
            If `forward` has not been called before.
        TypeError, ValueError
            If ``dy`` has the wrong kind or shape.
        """
        shape = self.forward_shape
        if shape is None:
            raise RuntimeError("forward must be called before backward")
        result = self.core.backward(dy)
        if result is not NotImplemented:
            return result
        rows = _validate.convert("dy", dy, self.dtype)
        if rows.shape != shape:
            raise ValueError(
                f"dy must have the shape of forward's outputs, {shape}, "
                f"got {_validate.describe(rows)}"
            )
        dx, grads = accepted(self.core.backward(np.atleast_2d(rows)))
        return dx.reshape(*shape[:-1], self.n_in), grads

    def vjp(
        self, x: npt.ArrayLike, dy: npt.ArrayLike, training: bool = False
    ) -> tuple[Array, Array, Array]:
        """Return the outputs and a vector-Jacobian product: `forward`, then `backward`.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        dy : (B, n_out) or (n_out,)
            Derivative of a scalar function with respect to the outputs.
        training : bool
            Whether dropout and batch normalisation are in training mode, as in
            `forward`.

        Returns
        -------
        y : ndarray (B, n_out) or (n_out,)
            The outputs.
        dx : ndarray, shape of x
            Derivative of the function with respect to the inputs.
        grads : ndarray (n_params,)
            Derivative of the function with respect to `params`, in their order.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape.
        """
        if training is not False and training is not True:
            training = _validate.flag("training", training)
        if training:
            self._set_rates()
        result = self.core.vjp(x, dy, training)
        if result is not NotImplemented:
            return result
        rows = _validate.inputs("x", x, self.n_in, self.dtype, vector=True)
        seeds = _validate.convert("dy", dy, self.dtype)
        shape = (*rows.shape[:-1], self.n_out)
        if seeds.shape != shape:
            raise ValueError(
                f"dy must have the same shape as the outputs, {shape}; "
                f"got {_validate.describe(seeds)}"
            )
        y, dx, grads = accepted(
            self.core.vjp(np.atleast_2d(rows), np.atleast_2d(seeds), training)
        )
        return y.reshape(shape), dx.reshape(rows.shape), grads

    def jacobian(self, x: npt.ArrayLike) -> Array:
        """Return the derivatives of all outputs with respect to all inputs.

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.

        Returns
        -------
        ndarray (B, n_out, n_in) or (n_out, n_in)
            Element (b, o, i) is the derivative of output o of row b with respect to
            input i of the same row.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape.

        Notes
        -----
        The directions of all rows pass through the layers together, as one matrix: n_in
        tangents forward or n_out cotangents backward, whichever is less work. At a kink
        the derivative is the one that the backward pass uses, for example relu'(0) = 0.
        """
        j = self.core.jacobian(x)
        if j is NotImplemented:
            j = accepted(self.core.jacobian(self._samples(x)))
        return j

    def jvp(self, x: npt.ArrayLike, v: npt.ArrayLike) -> tuple[Array, Array]:
        """Return outputs and their directional derivatives (Jacobian-vector product).

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        v : array_like, shape of x
            Direction for each sample.

        Returns
        -------
        y : ndarray (B, n_out) or (n_out,)
            The outputs.
        dy : ndarray, shape of y
            Derivatives of the outputs along v.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape.
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
        """Return the Hessian of an output times a direction (Hessian-vector product).

        Parameters
        ----------
        x : (B, n_in) or (n_in,)
            Samples as rows, or one sample.
        v : array_like, shape of x
            Direction for each sample.
        output : int or (n_out,), optional
            Index of the output to differentiate, or one weight per output; the weighted
            sum of the outputs is then differentiated. None is allowed if there is
            only one output.

        Returns
        -------
        ndarray, shape of x
            For each row, the Hessian of the output times the row's direction v. The
            computation costs as much as two gradients.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape, if ``output`` is missing although
            there are several outputs, or if an activation is a custom function, which
            has no second derivative.
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
            Index of the output to differentiate, or one weight per output; the weighted
            sum of the outputs is then differentiated. None is allowed if there is
            only one output.

        Returns
        -------
        ndarray (B, n_in, n_in) or (n_in, n_in)
            One matrix for each row, symmetric up to rounding.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape, if ``output`` is missing although
            there are several outputs, or if an activation is a custom function, which
            has no second derivative.

        Notes
        -----
        Each matrix consists of n_in directional derivatives of the gradient, one along
        each input. They use closed-form second derivatives of the activations and layer
        normalisations. The second derivatives of a piecewise linear network, such as
        one with relu, are 0.
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
            The derivatives; the last axis has the order of `params`.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong kind or shape.
        """
        j = self.core.param_jacobian(x)
        if j is NotImplemented:
            j = accepted(self.core.param_jacobian(self._samples(x)))
        return j

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
        """Return the weights of the outputs in the sum that is differentiated."""
        if output is None:
            if self.n_out > 1:
                raise ValueError(
                    f"output must be given, because the model has {self.n_out} "
                    "outputs: pass the index of one output, or an array with a weight "
                    "for each output"
                )
            return np.ones(1, self.dtype)
        if isinstance(output, (bool, np.bool_)):
            raise TypeError(
                "output must be the index of an output, or an array of weights, "
                f"got {output}"
            )
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
                "output must be the index of an output, or weights of shape "
                f"({self.n_out},), got {_validate.describe(weights)}"
            )
        return weights
