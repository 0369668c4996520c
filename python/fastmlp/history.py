"""What happened in a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


# What a history, and a log made of it, hold anyway.
RESERVED = ("loss", "val_loss", "metrics", "seconds", "epoch")


class History:
    """Per epoch: losses, metrics and time. Made by `fastmlp.MLP.fit`.

    Attributes
    ----------
    loss : list of float
        The mean training loss of the epoch (for ``reduction="sum"``, the sum over its
        batches), each batch's taken before its step.
    val_loss : list of float
        The validation loss after the epoch; empty if there are no validation data.
    metrics : dict of str to list of float
        The metrics that fit was asked for, "val_accuracy" and the like, and what
        callbacks add, by `log`.
    seconds : list of float
        The wall time of the epoch, validation included.
    has_validation : bool
        Whether there are validation data.
    """

    __slots__ = ("has_validation", "loss", "metrics", "seconds", "val_loss")

    def __init__(self, *, has_validation: bool = False) -> None:
        self.loss: list[float] = []
        self.val_loss: list[float] = []
        self.metrics: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.has_validation = has_validation

    def log(self, name: str, value: float) -> None:
        """Append a value to a metric; for callbacks.

        Raises
        ------
        ValueError
            For names that mean something else here or in a log.
        """
        if name in RESERVED:
            raise ValueError(f"the name {name!r} is taken; choose another")
        self.metrics.setdefault(name, []).append(float(value))

    def to_dict(self) -> dict[str, Any]:
        """Return copies of the lists: loss, val_loss, metrics, seconds."""
        return {
            "loss": list(self.loss),
            "val_loss": list(self.val_loss),
            "metrics": {name: list(values) for name, values in self.metrics.items()},
            "seconds": list(self.seconds),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return a history that holds what `to_dict` gave."""
        history = cls(has_validation=bool(values["val_loss"]))
        history.loss += values["loss"]
        history.val_loss += values["val_loss"]
        history.metrics |= {k: list(v) for k, v in values["metrics"].items()}
        history.seconds += values["seconds"]
        return history

    def extend(self, other: History) -> None:
        """Append the epochs of another history, such as that of a resumed training."""
        values = other.to_dict()
        self.loss += values["loss"]
        self.val_loss += values["val_loss"]
        self.seconds += values["seconds"]
        for name, series in values["metrics"].items():
            self.metrics.setdefault(name, []).extend(series)
        self.has_validation |= other.has_validation

    def __len__(self) -> int:
        """How many epochs were finished."""
        return len(self.loss)

    def __repr__(self) -> str:
        parts = [f"epochs={len(self)}"]
        if self.loss:
            parts.append(f"loss={self.loss[-1]:.6g}")
        if self.val_loss:
            parts.append(f"val_loss={self.val_loss[-1]:.6g}")
        for name, values in self.metrics.items():
            parts.append(f"{name}={values[-1]:.6g}")
        return f"History({', '.join(parts)})"
