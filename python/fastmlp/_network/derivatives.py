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
    """Outputs and their derivatives with respect to inputs and parameters."""

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
