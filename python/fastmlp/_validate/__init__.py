"""Validation and conversion of arguments at the boundary of the package.

Arrays that need no conversion bypass these functions, except in `MLP.fit`, which checks
the values of its data once. Every error message names the argument, the kind of value
that is wanted, and the value that was passed.
"""

from __future__ import annotations

import importlib
import math
import numbers
import operator
from array import array as buffer_array
from types import ModuleType, NotImplementedType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .elsewhere import VALUES
from .environment import reproducible as reproducible

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy.typing as npt

    from .. import _core

    Array = npt.NDArray[Any]
    Target = Array | tuple[Array, Array]  # labels and values, for action values
    # Everything that numpy.random.default_rng takes, except None.
    Seed = (
        int
        | np.integer[Any]
        | Sequence[int]
        | Array
        | np.random.SeedSequence
        | np.random.BitGenerator
        | np.random.Generator
    )

T = TypeVar("T")

# Largest accepted difference between 1 and the sum of a row of class probabilities:
# softmax outputs in float16 or float32 pass, but percentages and unnormalised scores do
# not.
PROBABILITY_SLACK = 1e-3


# Scalars and names ------------------------------------------------------------------


def describe(value: object) -> str:
    """Return a short description of a value, for error messages."""
    if isinstance(value, np.ndarray):
        return f"{article(str(value.dtype))} array of shape {value.shape}"
    if type(value) is int:
        return f"{shown(value)} (int)"
    if value is None or isinstance(value, (bool, numbers.Number, np.generic)):
        return f"{value!r} ({type(value).__name__})"
    if isinstance(value, str):
        return f"{value[:40]!r} (str)"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        shape = getattr(value, "shape", None)
    except Exception:  # for example of a released memoryview
        shape = None
    if isinstance(shape, tuple):
        return f"{article(type(value).__name__)} of shape {tuple(shape)}"
    return article(type(value).__name__)


def article(noun: str) -> str:
    """Return a noun after "a" or "an"; a leading "u" is taken as that of "unit".

    Two capitals begin an abbreviation, which is spelled: an MLP, but a Lasso.
    """
    spelled = noun[:2].isupper() and len(noun) > 1
    vowels = "AEFHILMNORSX" if spelled else "AEIOaeio"
    return f"{'an' if noun[:1] in tuple(vowels) else 'a'} {noun}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


# The largest number of steps that a stored state may hold: the count cannot overflow.
MOST_STEPS = 2**62

# The largest number that the core can hold as a count.
MOST = 2**63 - 1


def iterator(wanted: str, values: Any) -> Iterator[Any]:
    """Return an iterator, or raise TypeError that says what is ``wanted``."""
    try:
        return iter(values)
    # The latter is Python's error for a memoryview with two dimensions.
    except (TypeError, NotImplementedError):
        raise TypeError(f"{wanted}, got {describe(values)}") from None


def count(name: str, value: object, minimum: int, maximum: int | None = MOST) -> int:
    """Return an int within bounds; accept NumPy's integers, but not bools."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {describe(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {describe(value)}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {shown(number)}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {shown(number)}")
    return number


def shown(number: int) -> str:
    """Return an int as text; a long one, which Python may refuse to print, in short."""
    if abs(number) < 10**20:
        return str(number)
    return f"an int of {number.bit_length()} bits"


def real(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return a finite number within bounds.

    ``open_low`` and ``open_high`` exclude the bounds ``low`` and ``high`` themselves.
    An array or tensor without axes is taken as its number.
    """
    given = value
    if getattr(value, "shape", None) == () and not isinstance(value, np.generic):
        value = numeric(name, value)[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {describe(given)}")
    try:
        number = float(value)
    except OverflowError:  # an int or a fraction that no float can hold
        number = math.copysign(math.inf, 1 if value > 0 else -1)  # type: ignore[operator]
    too_low = number <= low if open_low else number < low
    too_high = number >= high if open_high else number > high
    if too_low or too_high or not math.isfinite(number):
        wanted = ["finite"]
        if low > -math.inf:
            wanted.append(f"{'>' if open_low else '>='} {low:g}")
        if high < math.inf:
            wanted.append(f"{'<' if open_high else '<='} {high:g}")
        raise ValueError(f"{name} must be {' and '.join(wanted)}, got {number!r}")
    return number


def flag(name: str, value: object) -> bool:
    """Return True or False; other truthy or falsy values are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")
    return bool(value)


def choice(name: str, value: object, known: Collection[str]) -> str:
    """Return one of the ``known`` names; the error suggests a similar name."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a name (str), got {describe(value)}")
    if value not in known:
        import difflib

        same = VALUES.get(value.lower(), "")
        near = difflib.get_close_matches(value.lower(), known, n=1)
        if same in known:
            near = [same]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{name} must be one of {', '.join(known)}, got {value!r}{hint}"
        )
    return str(value)


def float_dtype(value: object) -> np.dtype[Any]:
    """Return float32 or float64, in native byte order."""
    wanted = f"dtype must be float32 or float64, got {value!r}"
    if str(value).endswith("bfloat16"):
        wanted += "; for products in bfloat16, see the argument compute_dtype of fm.MLP"
    if value is None:  # np.dtype(None) is float64
        raise TypeError(wanted)
    try:
        dtype: np.dtype[Any] = np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(wanted) from None
    if dtype not in (np.float32, np.float64):
        raise ValueError(wanted)
    return dtype


def reals(
    name: str, value: object, low: float, high: float = math.inf, **options: bool
) -> tuple[float, ...]:
    """Return a non-empty sequence of finite numbers within bounds, as a tuple."""
    array = numeric(name, value)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a sequence of numbers, got {describe(value)}")
    return tuple(
        real(f"{name}[{i}]", number, low, high, **options)
        for i, number in enumerate(array.astype(np.float64).tolist())
    )


# Arrays that may be converted -------------------------------------------------------

# DLPack's device numbers for memory that the CPU can read: ordinary memory, and memory
# that CUDA or ROCm has pinned or manages.
_READABLE = (1, 3, 11, 13)
_DEVICES = {2: "CUDA", 8: "Metal", 10: "ROCm", 14: "oneAPI"}

# Attributes through which np.asarray can read an array in another object. If an object
# has only ``__dlpack__``, np.asarray would wrap it in an object array.
_NUMPY_READS = ("__array__", "__array_interface__", "__array_struct__")


def reachable(name: str, value: Any) -> None:
    """Refuse values on another device, and tensors that require grad."""
    if getattr(value, "requires_grad", False) is True:
        raise TypeError(
            f"{name} requires grad, but PyTorch cannot differentiate fastmlp's "
            f"results: write {name}.detach(), or use the module that "
            "mlp.as_torch_module() returns"
        )
    try:
        device = value.__dlpack_device__()[0]
    except Exception:  # the object has no device, or cannot name it
        return
    if device not in _READABLE:
        kind = _DEVICES.get(device, f"DLPack's type {device}")
        raise TypeError(
            f"{name} must be in CPU memory, got {describe(value)} on another "
            f"device ({kind}); copy it to the CPU first, in PyTorch with "
            f"{name}.cpu()"
        )


def _as_array(value: object) -> Array:
    """Return ``value`` as an array that shares its memory if possible."""
    known = any(hasattr(value, name) for name in _NUMPY_READS)
    if hasattr(value, "__dlpack__") and not known:
        return np.from_dlpack(value)
    return np.asarray(value)


def numeric(name: str, value: object) -> Array:
    """Return ``value`` as an array of booleans, integers or floats."""
    if type(value) is np.ndarray and value.dtype.kind in "biuf":
        return value
    if not isinstance(value, np.ndarray):
        reachable(name, value)
    # np.asarray would silently drop the mask.
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(
            f"{name} must not have masked entries, got a masked array; replace "
            f"them first, with {name}.filled(value)"
        )
    try:
        array = _as_array(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be converted to an array: {error}") from None
    except (TypeError, RuntimeError, BufferError) as error:
        hint = _dtype_hint(name, value)
        raise TypeError(
            f"{name} cannot be converted to an array: {error}{hint}"
        ) from None

    # Accept an array of Python objects only if each of them is a real number.
    if array.dtype == object:
        odd = [item for item in array.flat if not isinstance(item, numbers.Real)]
        if odd:
            got = describe(odd[0] if array.ndim else value)
            sparse = array.ndim == 0 and hasattr(value, "toarray")
            hint = f"; write {name}.toarray()" if sparse else ""
            raise TypeError(f"{name} must hold real numbers, got {got}{hint}")
        try:
            array = array.astype(np.float64)
        except OverflowError:
            raise ValueError(
                f"{name} must hold numbers that fit in float64, but one is too large"
            ) from None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must hold numbers that fit in float64: {error}"
            ) from None

    if array.dtype.kind not in "biuf":
        hint = _dtype_hint(name, array)
        raise TypeError(f"{name} must hold real numbers, got {describe(array)}{hint}")
    return array


def _dtype_hint(name: str, value: object) -> str:
    """Return a hint for dtypes that NumPy does not have, such as bfloat16."""
    if not str(getattr(value, "dtype", "")).endswith("bfloat16"):
        return ""
    return f"; NumPy has no bfloat16, convert {name} to float32 first"


def convert(name: str, value: object, dtype: np.dtype[Any]) -> Array:
    """Return ``value`` as an aligned C-contiguous array of a float ``dtype``."""
    if type(value) is np.ndarray and value.dtype is dtype and value.flags.carray:
        return value
    array = numeric(name, value)
    if array.dtype is dtype and array.ndim > 0 and array.flags.aligned:
        return blockwise_copy(array, dtype)
    return _cast(name, array, dtype)


@reproducible
def _cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        result = _required(array, dtype)
    # A finite number must not become infinite in the smaller dtype.
    if array.dtype.kind == "f" and array.dtype.itemsize > dtype.itemsize:
        for start, part in blocks(result):
            infinite = np.isinf(part)
            if not infinite.any():
                continue
            given = np.atleast_1d(array)
            lost = infinite & np.isfinite(given[start : start + len(part)])
            if lost.any():
                index = _first(lost, start)
                raise ValueError(
                    f"{name}{list(index)} = {given[index]} is too large for {dtype}"
                )
    return result


# Number of elements that NumPy handles at a time in a large array. Between two blocks
# Python looks for Ctrl-C, and the results of comparisons need less memory.
_BLOCK = 1 << 22


def blocks(array: Array) -> Iterator[tuple[int, Array]]:
    """Yield an array in parts of some million elements, with the row of their start."""
    if array.size <= _BLOCK:
        yield 0, np.atleast_1d(array)
        return
    rows = max(1, _BLOCK // max(1, array.size // len(array)))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def blockwise_copy(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return the array as C-contiguous, with this dtype; a copy only if needed."""
    usable = array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned
    if usable or array.size <= _BLOCK:
        result: Array = np.ascontiguousarray(array, dtype)
        return result
    result = np.empty(array.shape, dtype)
    for start, part in blocks(array):
        result[start : start + len(part)] = part
    return result


def _first(found: Array, start: int) -> tuple[int, ...]:
    """Return the index of the first true element; ``start``: the row of the part."""
    row, *rest = (int(i) for i in np.argwhere(found)[0])
    return start + row, *rest


def _required(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return the array, converted if necessary, with ``dtype`` itself as its dtype.

    `convert` recognises arrays that need no conversion by the identity of the dtype
    object. NumPy alone would keep a dtype that is equal but not the same object, such
    as the dtype of an unpickled array.
    """
    result: Array
    if type(array) is np.ndarray and array.ndim > 0 and array.flags.aligned:
        result = blockwise_copy(array, dtype)
    else:  # np.require takes some microseconds
        result = np.require(array, dtype, ["C", "ALIGNED", "ENSUREARRAY"])
    return result if result.dtype is dtype else result.view(dtype)


def inputs(
    name: str, x: object, n_in: int, dtype: np.dtype[Any], *, vector: bool = False
) -> Array:
    """Return samples as rows, (B, n_in); with ``vector`` also one sample, (n_in,)."""
    array = numeric(name, x)
    if vector and array.shape == (n_in,):
        return convert(name, array, dtype)
    if array.ndim != 2 or array.shape[1] != n_in:
        wanted = f"(rows, {n_in})" + (f" or ({n_in},)" if vector else "")
        hint = ""
        if array.shape == (n_in,):
            hint = f"; write {name}[np.newaxis, :] for one row"
        elif array.ndim == 1 and n_in == 1:
            hint = f"; write {name}[:, np.newaxis] for rows of one number"
        raise ValueError(
            f"{name} must have shape {wanted}, got {describe(array)}{hint}"
        )
    if array.shape[0] == 0:
        raise ValueError(f"{name} must have at least one row, got {describe(array)}")
    return convert(name, array, dtype)


def targets(
    name: str, y: Any, loss: _core.Loss, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Target:
    """Return targets for predictions of ``shape``; class labels become int64.

    For `ActionValue`, the targets are a pair: the actions as int64, and their values.
    """
    # ActionValue needs an action and a value for each row.
    if loss.action:
        if len(shape) != 2:
            raise ValueError(
                f"pred must have shape (rows, actions) for ActionValue, got {shape}"
            )
        if not isinstance(y, (tuple, list)) or len(y) != 2:
            raise TypeError(
                f"{name} must be a pair (actions, values) for ActionValue, got "
                f"{describe(y)}"
            )
        taken = actions(name, y[0], shape)
        values = convert(f"{name}: the values", y[1], dtype)
        if values.shape not in (shape[:1], (shape[0], 1)):
            raise ValueError(
                f"{name}: the values must have shape {shape[:1]}, "
                f"got {describe(values)}"
            )
        return taken, values

    # Targets of the shape of the predictions may be class probabilities, which are
    # converted below. All others must be class labels.
    kind = loss.kind
    if loss.of_rows:
        who = _loss_name(loss)
        if len(shape) != 2:
            raise ValueError(
                f"pred must have shape (rows, classes) for {who}, got {shape}"
            )
        classes = loss.class_count(shape[1])
        if classes == 1:
            raise ValueError(
                f"{who} needs one output for each class, but there is one "
                "output; use fm.BinaryCrossEntropy() for two classes and one output"
            )
        array = _target_numbers(name, y)
        if loss.allowed == "labels" or (loss.takes_labels and array.shape != shape):
            shares = shape if loss.allowed != "labels" else None
            return _labels(name, array, (shape[0], classes), loss.ignored, shares)

    # For each target there are several predictions.
    each = loss.predictions_per_target
    if each > 1:
        if len(shape) != 2 or shape[1] % each != 0:
            parts = _PARTS[kind]
            who, times = _loss_name(loss), "two" if each == 2 else str(each)
            if name == "target":
                raise ValueError(
                    f"for {who}, pred must hold {' and '.join(parts)} and have shape "
                    f"(rows, {each} * targets), got {shape}"
                )
            raise ValueError(
                f"loss: {who} needs a model with {times} outputs for each target, "
                f"first all {', then all '.join(parts)}; got the width {shape[1]}"
            )
        shape = (shape[0], shape[1] // each)

    # The target must have one number for each output. The shapes (B,) and (B, 1) are
    # equivalent; any other difference in shape would need broadcasting, which usually
    # hides a mistake.
    if isinstance(y, tuple) and len(y) == 2 and shape[0] != 2:
        raise TypeError(
            f"{name} must be an array, got a pair; pairs (actions, values) are for "
            "fm.ActionValue(loss)"
        )
    array = convert(name, _target_numbers(name, y), dtype)
    if array.shape == shape:
        return array
    if shape[1:] in ((), (1,)) and array.shape in (shape[:1], (*shape[:1], 1)):
        return array.reshape(shape)
    several = kind in ("quantile", "expectile") and len(loss.per_output) > 0
    if several and array.shape in (shape[:1], (*shape[:1], 1)):
        # Each column predicts a different property of the same number.
        return np.repeat(array.reshape(-1, 1), shape[1], axis=1)
    alone = shape[1:] == (1,) or several
    wanted = f"{shape}" + (f" or {shape[:1]}" if alone else "")
    hint = ""
    if len(shape) == 2 and array.shape in (shape[:1], (shape[0], 1)):
        whole = (array >= 0).all() and (array == np.floor(array)).all()
        if whole and (array < shape[1]).all():
            hint = "; class labels are for fm.CrossEntropy()"
    elif each == 2 and array.shape == (shape[0], 2 * shape[1]):
        hint = f"; the model needs two outputs for each target, {_PAIRS[kind]}"
    raise ValueError(f"{name} must have shape {wanted}, got {describe(array)}{hint}")


def _loss_name(loss: _core.Loss) -> str:
    """Return the name of the class of a loss, such as "KLDiv" for "kl_div"."""
    return "".join(
        part.upper() if part in ("kl", "nll") else part.title()
        for part in loss.kind.split("_")
    )


# What the predictions of losses that take several for each target consist of.
_PARTS = {
    "gaussian_nll": ("means", "log variances"),
    "student_t_nll": ("locations", "log scales"),
    "mixture_density": ("logits", "means", "log deviations"),
}
_PAIRS = {
    "gaussian_nll": "a mean and a log variance",
    "student_t_nll": "a location and a log scale",
}


def _target_numbers(name: str, y: object) -> Array:
    """Return targets as an array of numbers; the error explains how to encode words."""
    try:
        return numeric(name, y)
    except TypeError as error:
        flat = np.asarray(y, object).ravel() if is_array_like(y) else np.empty(0)
        if flat.size == 0 or not isinstance(flat[0], (str, bytes)):
            raise
        raise TypeError(
            f"{error}; np.unique(y, return_inverse=True) returns the names of the "
            "classes and their labels from 0 on"
        ) from None


def is_array_like(value: object) -> bool:
    """Return whether a value is a list, a tuple or an array of some library."""
    kinds = (list, tuple, np.ndarray, memoryview, buffer_array)
    names = (*_NUMPY_READS, "__dlpack__")
    return isinstance(value, kinds) or any(hasattr(value, name) for name in names)


def _labels(
    name: str,
    array: Array,
    shape: tuple[int, int],
    ignored: int | None,
    shares: tuple[int, ...] | None,
) -> Array:
    """Return labels; ``shares`` is the shape of probabilities, if they are allowed."""
    rows, classes = shape
    if array.shape != (rows,):
        hint = f"; {name}.ravel() gives labels" if array.shape == (rows, 1) else ""
        either = f", or class probabilities of shape {shares}" if shares else ""
        raise ValueError(
            f"{name} must hold int class labels of shape {(rows,)}{either}; got "
            f"{describe(array)}{hint}"
        )
    if array.dtype.kind == "f":
        raise TypeError(
            f"{name} must hold class labels of an integer dtype, got "
            f"{describe(array)}; write {name}.astype(int) if they are whole numbers"
        )
    return _below(f"{name}: the label", array, classes, "classes", ignored)


def actions(name: str, value: object, shape: tuple[int, ...]) -> Array:
    """Return the actions (B,) as int64, checked for predictions of ``shape``."""
    rows, n_actions = shape
    array = numeric(f"{name}: the actions", value)
    if array.shape != (rows,) or array.dtype.kind == "f":
        error = TypeError if array.dtype.kind == "f" else ValueError
        raise error(
            f"{name}: the actions must be of an integer dtype and of shape {(rows,)}, "
            f"got {describe(array)}"
        )
    return _below(f"{name}: the action", array, n_actions, "actions")


def _below(
    what: str, array: Array, n: int, among: str, ignored: int | None = None
) -> Array:
    """Return integers as int64; raise ValueError unless all are from 0 to n - 1."""
    # Check before the conversion, because int64 would wrap large uint64 values.
    bad = (array < 0) | (array >= n)
    if bad.any() and ignored is not None:
        bad &= array != ignored
    if bad.any():
        row = int(np.argmax(bad))
        hint = ""
        if among == "classes" and array.min() == 1 and array.max() == n:
            hint = "; labels count from 0: subtract 1"
        elif among == "classes" and n == 2 and (abs(array) == 1).all():
            hint = "; (y + 1) // 2 converts -1 and 1 to 0 and 1"
        raise ValueError(
            f"{what} {array[row]} in row {row} is out of range for "
            f"{n} {among} (0 to {n - 1}){hint}"
        )
    return _required(array, np.dtype(np.int64))


def weights(
    name: str,
    value: object,
    dtype: np.dtype[Any],
    rows: int | None = None,
    *,
    relative: bool = False,
) -> Array:
    """Return sample weights (B,), which must be finite, not negative and not all zero.

    If ``rows`` is None, the core checks the number of weights. If ``relative`` is set,
    only the ratios of the weights matter, as in a mean, so that weights out of the
    range of ``dtype`` are divided by a power of two.
    """
    array = numeric(name, value)
    if array.dtype is dtype and array.ndim == 1 and array.size == (rows or array.size):
        normal, most = _RANGES[dtype]
        # False for NaN, and for no weights at all.
        if array.size and array.min() >= 0 and normal <= array.max() <= most:
            return convert(name, array, dtype)
    if relative and array.size:
        array = _rescaled(array, dtype)
    array = convert(name, array, dtype)
    if array.ndim != 1 or array.size == 0 or rows not in (None, array.size):
        wanted = "(rows,)" if rows is None else f"({rows},)"
        raise ValueError(f"{name} must have shape {wanted}, got {describe(array)}")
    if array.min() >= 0 and 0 < array.max() < np.inf:  # false for NaN
        return array
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{name} must be finite and not negative, got {array[row]} in row {row}"
        )
    if numeric(name, value).any():
        raise ValueError(f"{name} must not be all zeros, as they are in {dtype}")
    raise ValueError(f"{name} must not be all zeros")


# For each dtype, the bounds of a largest weight that needs no scaling. The core adds
# weights as float64: a sum of 2^64 of them must be finite.
_RANGES = {
    np.dtype(kind): (float(limits.smallest_normal), min(float(limits.max), 2.0**960))
    for kind in (np.float32, np.float64)
    for limits in (np.finfo(kind),)
}


def _rescaled(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return weights whose largest is near 1 if it, or a sum, is out of range."""
    top = float(array.max())
    normal, most = _RANGES[dtype]
    if not 0 < top < np.inf or normal <= top <= most:
        return array
    wide = array.astype(np.promote_types(array.dtype, np.float64))
    result: Array = np.ldexp(wide, -np.frexp(wide.max())[1])
    return result


# Values that only fit checks --------------------------------------------------------


def finite(name: str, array: Array, *, missing: bool = False) -> None:
    """Refuse NaN and infinity, which a training step would spread to all parameters.

    If ``missing`` is set, NaN means that there is no number, and passes.
    """
    for start, part in blocks(array):
        usual = ~np.isinf(part) if missing else np.isfinite(part)
        if usual.all():
            continue
        index = _first(~usual, start)
        raise ValueError(
            f"{name} must be finite, got {array[index]} in row {index[0]}"
            + (f", column {index[1]}" if len(index) > 1 else "")
        )


def target_values(name: str, target: Target, loss: _core.Loss) -> None:
    """Refuse targets that are not finite or that the loss does not allow."""
    if isinstance(target, tuple):
        name, target = f"{name}: the values", target[1]
    array = target
    if array.dtype == np.int64:
        return  # class labels, whose range has been checked
    logarithms = loss.kind == "kl_div" and loss.second != 0.0
    if logarithms:
        array = np.exp(array)  # a logarithm of -inf is a probability of 0
    finite(name, array, missing=loss.masked)
    allowed(name, array, loss)
    if loss.of_rows:
        total = array.sum(axis=1, dtype=np.float64)
        off = abs(total - 1) > PROBABILITY_SLACK
        if off.any():
            row = int(np.argmax(off))
            raise ValueError(
                f"{name} must hold class probabilities that sum to 1 in each row, "
                f"got a sum of {total[row]:.6g} in row {row}"
            )


def allowed(name: str, target: Target, loss: _core.Loss) -> None:
    """Refuse targets that the loss does not allow; NaN passes, as in the core."""
    if isinstance(target, tuple):
        name, target = f"{name}: the values", target[1]
    array, allows = target, loss.allowed
    if array.dtype == np.int64:
        return  # class labels, whose range has been checked
    if allows == "probabilities":
        bad, wanted = (array < 0) | (array > 1), "probabilities from 0 to 1"
    elif allows == "signs":
        bad, wanted = (
            (abs(array) != 1) & (array == array),
            f"only -1 and 1 for {_loss_name(loss)}",
        )
    elif allows == "counts":
        bad, wanted = array < 0, f"non-negative counts for {_loss_name(loss)}"
    elif allows == "positive":
        bad, wanted = array <= 0, f"positive numbers for {_loss_name(loss)}"
    else:
        return
    rows = np.reshape(bad, (len(array), -1)).any(axis=1)
    if not rows.any():
        return
    row = int(np.argmax(rows))
    hint = ""
    if allows == "signs" and ((array == 0) | (array == 1)).all():
        hint = "; 2 * y - 1 converts 0 and 1 to -1 and 1"
    elif loss.kind == "binary_cross_entropy" and (abs(array) == 1).all():
        hint = "; (y + 1) / 2 converts -1 and 1 to 0 and 1"
    raise ValueError(f"{name} must hold {wanted}, got {array[row]} in row {row}{hint}")


# Arrays that are never converted ----------------------------------------------------


def shared(name: str, value: Any) -> Array:
    """Return a writeable array that shares the memory of a tensor or buffer.

    NumPy arrays are returned unchanged.
    """
    if isinstance(value, np.ndarray):
        return value
    reachable(name, value)
    try:
        if not hasattr(value, "__dlpack__"):
            return np.asarray(memoryview(value))
        own = np.from_dlpack(value)
        if own.flags.writeable or not hasattr(value, "__array__"):
            return own
        # np.from_dlpack makes the array read-only if the other library uses an old
        # version of DLPack; np.asarray may give a writeable array of the same memory.
        array = np.asarray(value)
        same = array.ctypes.data == own.ctypes.data and array.strides == own.strides
        return array if same else own
    except (TypeError, ValueError, RuntimeError, BufferError):
        raise TypeError(
            f"{name} must be a numpy array, or a tensor or buffer whose memory NumPy "
            f"can share, got {describe(value)}{_dtype_hint(name, value)}"
        ) from None


def stored(state: Any, kind: str) -> tuple[dict[str, Any], Any, list[Any]]:
    """Return hyperparameters, step and slots from an optimiser's or solver's state.

    Raises ValueError if ``state`` is not a result of ``state_dict()``, or if its
    kind is not ``kind``.
    """
    try:
        found, hyper = state["kind"], dict(state["hyper"])
        step, slots = state["step"], list(state["slots"])
    # Views of memory with several dimensions raise NotImplementedError.
    except (KeyError, TypeError, IndexError, ValueError, NotImplementedError) as error:
        raise ValueError(
            "state must be a dict from state_dict(), with the keys kind, "
            f"hyper, step and slots ({type(error).__name__}: {error})"
        ) from None
    if found != kind:
        raise ValueError(f"state['kind'] must be {kind!r}, got {found!r}")
    return hyper, step, slots


def exact(
    name: str,
    array: object,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    writeable: bool,
) -> Array:
    """Refuse an array that would need conversion, because its own memory must be used.

    The result shares the array's memory. It is a plain ``numpy.ndarray``, as the core
    requires, and has the same dtype object as ``dtype``.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must not be a masked array, because its mask would be ignored; "
            f"got {describe(array)}"
        )
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {describe(array)}")
    if array.dtype != dtype:
        raise TypeError(
            f"{name} must have dtype {dtype} (it is never converted), "
            f"got {describe(array)}"
        )
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {describe(array)}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous (it is never converted), got strides "
            f"{array.strides} for {describe(array)}"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name} must be aligned in memory (it is never converted)")
    if writeable and not array.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    plain = np.asarray(array)
    return plain if plain.dtype is dtype else plain.view(dtype)


def apart(name: str, array: Array, other_name: str, other: object) -> None:
    """Refuse arrays that may share memory."""
    if isinstance(other, np.ndarray) and np.may_share_memory(array, other):
        raise ValueError(f"{name} must not overlap {other_name} in memory")


# Odds and ends ----------------------------------------------------------------------


def extra(module: str, what: str, name: str) -> ModuleType:
    """Import a module of an optional dependency, which an extra of fastmlp installs.

    Raises an ImportError that says what needs the package and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{what} needs the {package} package: pip install 'fastmlp[{name}]' "
            f"({error})",
            name=package,
        ) from error


def accepted(result: T | NotImplementedType) -> T:
    """Return the core's result; raise RuntimeError if the core refused the arrays."""
    if isinstance(result, NotImplementedType):
        raise RuntimeError(
            "fastmlp's core refused arrays that had passed all checks; this is "
            "a bug in fastmlp"
        )
    return result


def arguments(values: dict[str, Any]) -> str:
    """Return keyword arguments as source code, for ``__repr__``."""

    def code(value: Any) -> str:
        infinite = isinstance(value, float) and value == math.inf
        return "float('inf')" if infinite else repr(value)

    return ", ".join(f"{name}={code(value)}" for name, value in values.items())
