"""The methods of the model that write it in other forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._network.model import Model

if TYPE_CHECKING:
    import os

    import torch


class Exports(Model):
    """Files, PyTorch modules, ONNX models and C headers of a model.

    What writes them is imported when it is needed.
    """

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
        from . import model_file

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
        from . import to_torch

        return to_torch.to_torch(self)

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
        from . import to_onnx

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
        from .c import header

        header.to_c(self, path, name=name, jacobian=jacobian)
