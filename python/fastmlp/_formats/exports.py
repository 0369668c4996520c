"""The methods of the model that write files or convert it to other formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._network.model import Model

if TYPE_CHECKING:
    import os

    import torch

    from .diagram import Diagram


class Exports(Model):
    """Methods that make files, PyTorch modules, ONNX models, C headers and pictures.

    The module that writes a format is imported only when its method is called.
    """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, which `fastmlp.load` reads.

        Parameters
        ----------
        path : str or path-like
            Path of the file. An existing file is replaced atomically: at any time, the
            path holds either the complete previous file or the complete new one.

        Raises
        ------
        TypeError, ValueError
            If ``path`` is not a str or path, or exists and is not a regular file.
        OSError
            If the file cannot be written; the previous file is kept.

        Notes
        -----
        The arrays are those of `state_dict`, with PyTorch's names and layout, so that
        ``safetensors.torch.load_file`` reads them. They are written in blocks, so that
        saving takes little memory. The metadata contain the
        architecture as JSON, the seed of training, the position of training in the
        sequence of random draws, and a SHA-256 hash of all contents. `history` is not
        saved, so that equal models give equal files. Custom activations are stored by
        name only and must be passed to `fastmlp.load`; initialisers that are functions
        are stored by name and not needed again.
        """
        from . import model_file

        model_file.save(self, path)

    def to_torch(self) -> torch.nn.Sequential:
        """Return a copy of the network as a PyTorch module.

        Returns
        -------
        torch.nn.Sequential
            Module on the CPU with its own parameters, which are bitwise equal to this
            model's and have the names of `state_dict`. It is in inference mode; call
            ``train()`` to enable dropout and the batch statistics of `BatchNorm`.
            Residual blocks are modules with a ``body`` and a ``projection``. PyTorch's
            random number generator is not used.

        Raises
        ------
        ImportError
            If PyTorch is not installed.
        TypeError
            If an activation is a custom function.

        Notes
        -----
        The module's outputs may differ from the model's by rounding errors, because
        PyTorch sums in another order. The module computes in float32 also if
        ``compute_dtype`` is "bfloat16"; under ``torch.autocast`` it rounds operands.
        `fastmlp.from_torch` converts the module back.
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
        """Write the network in inference mode as an ONNX model.

        This needs the ``onnx`` package: ``pip install 'fastmlp[onnx]'``.

        Parameters
        ----------
        path : str or path
            Path of the file, which is written or replaced atomically.
        opset : int
            Version of ONNX's operator set, at least 17. The operators are the same for
            all versions, so the default suffices unless the program that reads the file
            requires a newer version.
        input_name : str
            Name of the input, an array (N, n_in) in the model's dtype with any number N
            of rows.
        output_name : str
            Name of the output, an array (N, n_out) in the same dtype.

        Raises
        ------
        ImportError
            If the onnx package is not installed.
        TypeError, ValueError
            If an argument has the wrong type or value, an activation is a custom
            function, or the model exceeds the 2 GiB limit of ONNX files.

        Notes
        -----
        Weights (out, in) and biases have the names of `state_dict`. `Dropout` is
        removed, and `BatchNorm` after a dense layer without activation is merged into
        that layer, as in `fold`. The operators are chosen so that onnxruntime also runs
        the model in float64. If the network is well conditioned in its dtype, the
        results of onnxruntime and of this model agree within 1e-6 of the largest output
        (far closer for float64 models). They are not bitwise equal, because onnxruntime
        sums in another order. If ``compute_dtype`` is "bfloat16", the operands of
        products are cast to bfloat16 and back, and no normalisation is merged.
        """
        from . import to_onnx

        to_onnx.to_onnx(
            self, path, opset=opset, input_name=input_name, output_name=output_name
        )

    def to_c(
        self, path: str | os.PathLike[str], *, name: str = "mlp", jacobian: bool = False
    ) -> None:
        """Write the network as one C99 header that only needs the C standard library.

        ``#include`` the header and call ``mlp_predict(x, y)``: for one row, y has the
        same bits as ``mlp(x)``.

        Parameters
        ----------
        path : str or path
            Path of the file, which is written or replaced atomically.
        name : str
            Prefix of all names in the header, a C identifier: ``mlp`` gives
            ``mlp_predict``, ``mlp_jacobian``, ``MLP_N_IN`` and ``MLP_N_OUT``. One
            program may include headers with different prefixes.
        jacobian : bool
            Whether to add a function for the Jacobian, ``mlp_jacobian(x, y, jac)``,
            whose results have the same bits as those of `predict` and `jacobian`.

        Raises
        ------
        TypeError, ValueError
            If ``name`` is not a valid identifier or is a keyword of C or C++, or if an
            `Activation` of the model is a custom function.
        OSError
            If the file cannot be written.

        Notes
        -----
        The functions allocate nothing, keep no state and may be called by several
        threads at once; the top of the header states their stack use. Layers behave as
        in inference: dropout does nothing, and batch normalisation uses its running
        statistics. Weights are hexadecimal literals, which are exact and take 17 bytes
        of text each in float32 and 24 in float64. Such literals need C99 or C++17 or
        later. Writing a large model needs little memory, but compiling its header takes
        a long time.

        Results have the same bits wherever ``float`` and ``double`` are IEEE 754 types
        in the default mode and ``fma`` rounds once, as C99 requires. They would differ
        with ``-ffast-math``, which the header refuses. Enable the processor's ``fma``
        instruction (on x86-64 by ``-mfma`` or ``-march=native``): without it the
        functions return the same results, but run more slowly.

        The functions compute in float32 also if ``compute_dtype`` is "bfloat16": their
        results are then those of ``mlp.copy(compute_dtype="float32")``.
        """
        from .c import header

        header.to_c(self, path, name=name, jacobian=jacobian)

    def diagram(self, *, max_units: int = 16) -> Diagram:
        """Return a diagram of the layers, which a notebook shows as a picture.

        The input is at the top, and each layer is a row. Lines at the left are
        connections past other layers, and a box on a line is a projection. In networks
        of many layers, equal layers that follow each other are drawn once, with their
        number.

        Parameters
        ----------
        max_units : int
            Largest width of layers whose units are drawn one by one; wider layers are
            blocks. 0 draws all layers as blocks. Layers with more than 20,000
            connections are joined by a band instead of lines.

        Returns
        -------
        Diagram
            Picture in SVG, for which no other package is needed. ``diagram.save(path)``
            writes a file, whose name ends in ".svg", and ``str(diagram)`` is the text
            of that file. The picture has no background and suits light and dark pages.

        Raises
        ------
        TypeError, ValueError
            If ``max_units`` is not an int ≥ 0.

        See Also
        --------
        fastmlp.plot.network : Picture of the weights, for which matplotlib is needed.
        summary : Table of the layers.

        Examples
        --------
        >>> import fastmlp as fm
        >>> fm.MLP([4, 8, 3], seed=0).diagram()
        <Diagram: network of 4 inputs, 3 outputs and 67 parameters>
        """
        from . import diagram

        return diagram.diagram(self, max_units)
