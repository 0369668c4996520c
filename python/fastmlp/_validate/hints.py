"""Hints in errors about unknown arguments and attributes.

`watch` gives them to the public classes and to the modules of the package, and
`hinted` to a function. What other libraries call things is in `elsewhere`.

None of this costs time where there is no error, except that a call of a watched
function passes through a wrapper. Methods that take only microseconds, `FAST`, have
no wrapper; Python's own errors name their unknown arguments, too.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import elsewhere
from .environment import reproducible

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Self

    F = TypeVar("F", bound=Callable[..., Any])

# Methods that are called in each step of a training or control loop.
FAST = frozenset(
    (
        "add",
        "backward",
        "forward",
        "hvp",
        "jacobian",
        "jvp",
        "observe",
        "on_batch_end",
        "polyak_",
        "predict",
        "sample",
        "step",
        "train_step",
        "update",
        "update_priorities",
        "value_and_grad",
        "vjp",
    )
)

# Modules whose names are suggested for names that a module of the package lacks.
MODULES = (
    "layers",
    "losses",
    "optimizers",
    "schedules",
    "callbacks",
    "metrics",
    "initializers",
    "solvers",
    "runtime",
    "rl",
    "plot",
    "regions",
)

# Parts of the names of classes in other libraries that fastmlp's names do not have.
_ENDINGS = ("layer", "loss", "optimizer", "lr", "schedule", "1d")

_PACKAGE = __package__.partition(".")[0]

# Similarities, as difflib measures them, from which names are suggested: of names in
# the same place, and of names in other modules.
FAIRLY, VERY = 0.6, 0.8


def similar(name: str, known: Iterable[str], least: float = FAIRLY) -> str | None:
    """Return the known name that is most similar to a name, if one is similar."""
    import difflib

    small = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), small, n=1, cutoff=least)
    return small[near[0]] if near else None


# Arguments ----------------------------------------------------------------------------


def keyword(what: str, owners: Iterable[str], name: str, known: Collection[str]) -> str:
    """Return the message for an unknown keyword argument.

    Parameters
    ----------
    what : str
        Name of the class or function that was called.
    owners : iterable of str
        Names under which `elsewhere.ARGUMENTS` may have a hint.
    name : str
        Keyword that is unknown.
    known : collection of str
        Keywords that could have been used.
    """
    message = f"{what}() got an unexpected keyword argument {name!r}"
    for owner in owners:
        if hint := elsewhere.ARGUMENTS.get((owner, name)):
            return f"{message}; {hint}"
    same = [n for n in elsewhere.KEYWORDS.get(name.lower(), ()) if n in known]
    near = same[0] if same else similar(name, known)
    if near is not None:
        return f"{message}; did you mean {near!r}?"
    if not known:
        return f"{message}; it takes no arguments"
    return f"{message}; it takes {', '.join(known)}"


def _explained(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    bound: bool,
    error: TypeError,
) -> str:
    """Return the message for arguments that do not fit a function.

    Parameters
    ----------
    function : callable
        The function, which Python refused to call.
    args, kwargs : tuple, dict
        Its arguments.
    bound : bool
        Whether the first of ``args`` is the object or class of a method.
    error : TypeError
        Python's error.
    """
    import inspect

    signature = inspect.signature(function, follow_wrapped=False)
    what, owners = function.__qualname__, [function.__name__]
    if bound:
        made = args[0] if isinstance(args[0], type) else type(args[0])
        what = made.__name__
        if function.__name__ == "__init__":
            owners = [each.__name__ for each in made.__mro__]
            # The class may have a signature that lists more, as optimisers do.
            signature = getattr(made, "__signature__", signature)
        else:
            what += f".{function.__name__}"
    parameters = [p for p in signature.parameters.values() if p.name not in _FIRST]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in parameters if p.kind not in several]

    for name in kwargs:
        if name not in names:
            return keyword(what, owners, name, names)

    # Too many arguments by position, one argument twice, or a missing one.
    first = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    given = len(args) - bound
    twice = [name for name in first[:given] if name in kwargs]
    if twice:
        message = f"{what}() got {twice[0]} twice, by position and by name"
    elif given > len(first):
        takes = f"only {', '.join(first)}" if first else "no arguments"
        message = f"{what}() takes {takes} by position, but got {given} arguments"
    else:
        return str(error).replace(f"{function.__qualname__}()", f"{what}()", 1)
    for owner in owners:
        if hint := elsewhere.ARGUMENTS.get((owner, "")):
            return f"{message}; {hint}"
    rest = [name for name in names if name not in first]
    if rest and not twice:
        message += f"; write the names of the others: {', '.join(rest)}"
    return message


# Names of the first parameters of methods.
_FIRST = ("self", "cls")


def hinted(function: F) -> F:
    """Make a function's errors about its arguments say what it takes; a decorator."""
    return _hinted(function, bound=False)


def _hinted(function: F, *, bound: bool) -> F:
    inside = getattr(function, "guards", None)
    if inside is not None:  # the arguments are those of the function inside
        return reproducible(_hinted(inside, bound=bound))  # type: ignore[return-value]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # If the arguments do not fit, the function's own frame does not exist.
            trace = error.__traceback__
            if trace is None or trace.tb_next is not None or bound > len(args):
                raise
            message = _explained(function, args, kwargs, bound, error)
        raise TypeError(message)

    return call  # type: ignore[return-value]


# Attributes ---------------------------------------------------------------------------


class _Elsewhere:
    """An attribute that other libraries' objects have: its error says what to do."""

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Self:
        if instance is None:
            return self
        raise self._error(owner)

    def _error(self, owner: type) -> AttributeError:
        # An `obj` of None keeps Python from adding a suggestion of its own.
        return AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}; {self._hint}",
            name=self._name,
            obj=None,
        )

    def __repr__(self) -> str:
        return f"<none; {self._hint}>"


class _Fixed(_Elsewhere):
    """The same for classes whose objects have no other attributes: it cannot be set."""

    def __set__(self, instance: object, value: object) -> NoReturn:
        raise self._error(type(instance))


def _listed(self: object) -> list[str]:
    """Return the attributes of an object without those that it does not have."""
    found: dict[str, Any] = {}
    for cls in reversed(type(self).__mro__):
        found |= vars(cls)
    found |= getattr(self, "__dict__", {})
    return [n for n in object.__dir__(self) if not isinstance(found.get(n), _Elsewhere)]


def attribute(module: str, name: str, known: Collection[str]) -> Exception:
    """Return the error for an attribute that a module of the package lacks.

    It must be raised by the module's ``__getattr__``, which must call this function.
    """
    hint = None if name.startswith("_") else _module_hint(module, name, known)
    hint = f"; {hint}" if hint else ""
    # `from module import name` would replace an AttributeError by an ImportError
    # without the hint, unless it finds a module that is being imported.
    if f"{module}.{name}" not in sys.modules and _imports_from(sys._getframe(2)):
        return ImportError(
            f"cannot import name {name!r} from {module!r}{hint}", name=module
        )
    message = f"module {module!r} has no attribute {name!r}{hint}"
    return AttributeError(message, name=name, obj=None)


def _imports_from(frame: FrameType) -> bool:
    """Return whether a frame is executing ``from module import name``."""
    import dis

    code = frame.f_code.co_code
    return 0 <= frame.f_lasti < len(code) and (
        dis.opname[code[frame.f_lasti]] == "IMPORT_FROM"
    )


def instance(value: object, module: str) -> str:
    """Return the hint for a name in the place of an object of a class, or "".

    Parameters
    ----------
    value : object
        What was given.
    module : str
        Module of the class, such as "losses".
    """
    if not isinstance(value, str) or not value.isidentifier():
        return ""
    name = f"{_PACKAGE}.{module}"
    hint = _module_hint(name, value, _public(name)) or ""
    return f"; {hint[:-1]}()?" if hint.startswith("did you mean") else ""


def _module_hint(module: str, name: str, known: Collection[str]) -> str | None:
    """Return what to write instead of an attribute that a module lacks, or None."""
    short = name.lower()
    for ending in _ENDINGS:
        short = short.removesuffix(ending) or short
    if hint := elsewhere.MODULE.get(name.lower()):
        return hint
    if there := elsewhere.NAMES.get(name.lower()) or elsewhere.NAMES.get(short):
        return f"did you mean fm.{there}?"

    # The same name elsewhere in the package, then similar names.
    top = sys.modules[_PACKAGE].__all__
    places: dict[str, str] = {}
    for each in (module.removeprefix(f"{_PACKAGE}."), *MODULES):
        public = known if module.endswith(each) else _public(f"{_PACKAGE}.{each}")
        for n in public:
            places.setdefault(n, f"fm.{n}" if n in top else f"fm.{each}.{n}")
    if name in top:
        return f"did you mean fm.{name}?"
    places |= {n: f"fm.sklearn.{n}" for n in elsewhere.ESTIMATORS}
    small: dict[str, str] = {}
    for each in places:
        small.setdefault(each.lower(), each)
    near = small.get(name.lower()) or small.get(short)
    near = near or similar(short, known) or similar(name, known)
    near = near or similar(name, places, VERY)
    return f"did you mean {places[near]}?" if near else None


def _public(module: str) -> list[str]:
    """Return the public names of a module of the package."""
    # vars, because getattr would ask the module's __getattr__.
    own = vars(import_module(module))
    if "__all__" in own:
        names: list[str] = own["__all__"]
        return names
    return [
        name
        for name, value in own.items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    ]


# Installation -------------------------------------------------------------------------

_watched: set[type] = set()


def watch(module: str, *, methods: bool = True) -> None:
    """Give hints to the classes that a module exports, and to the module itself.

    Without ``methods``, only constructors and the module get them.
    """
    here = sys.modules[module]
    for name in _public(module):
        value = vars(here).get(name)
        if isinstance(value, type):
            for cls in value.__mro__:
                if cls.__module__.partition(".")[0] == _PACKAGE:
                    _watch_class(cls, methods)
    if not hasattr(here, "__getattr__"):

        def missing(name: str) -> NoReturn:
            raise attribute(module, name, _public(module))

        vars(here)["__getattr__"] = missing


def _watch_class(cls: type, methods: bool) -> None:
    if cls in _watched or issubclass(cls, BaseException):
        return
    _watched.add(cls)
    for name, value in list(vars(cls).items()):
        public = methods and not name.startswith("_") and name not in FAST
        if not public and name != "__init__":
            continue
        if isinstance(value, FunctionType):
            setattr(cls, name, _hinted(value, bound=True))
        elif isinstance(value, classmethod):
            setattr(cls, name, classmethod(_hinted(value.__func__, bound=True)))
        elif isinstance(value, staticmethod):
            setattr(cls, name, staticmethod(hinted(value.__func__)))
    # Objects with a dict may have such attributes of their own, in a subclass.
    kind = _Elsewhere if "__dict__" in dir(cls) else _Fixed
    table = elsewhere.ATTRIBUTES.get(cls.__name__, {})
    for name, hint in table.items():
        if not hasattr(cls, name):
            decoy = kind(hint)
            decoy.__set_name__(cls, name)
            setattr(cls, name, decoy)
    if table:
        cls.__dir__ = _listed  # type: ignore[method-assign]
