"""Networks and helpers for tests of HTML and SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import fastmlp as fm
import numpy as np

SVG = "{http://www.w3.org/2000/svg}"


def tree(text: str) -> ET.Element:
    """Parse markup, which must be well-formed; HTML is written as XML here."""
    return ET.fromstring(text)


def words(element: ET.Element) -> list[str]:
    """The texts in an element, without white space at their ends."""
    return [t.strip() for t in element.itertext() if t.strip()]


def square(z: np.ndarray) -> np.ndarray:
    return z * z


def twice(z: np.ndarray) -> np.ndarray:
    return 2 * z


def every_kind(dtype: str = "float32") -> fm.MLP:
    """A small network with all kinds of layer and nested residual blocks."""
    inner = fm.Residual([5, fm.Activation("sin"), 6])
    layers = [
        *(3, fm.Dense(4, "tanh", bias=False), fm.BatchNorm(), fm.Dropout(0.25)),
        fm.Residual([fm.LayerNorm(), inner]),
        fm.Residual([fm.Dense(6, "identity"), fm.RMSNorm()]),
        *(fm.Activation(square, twice), 2),
    ]
    return fm.MLP(layers, output_activation="softmax", dtype=dtype, seed=0)


# Names that must be escaped, or that XML does not allow.
HOSTILE = ["</title><script>alert(1)</script>", "\"&<>'", "\x00\x1b\ud800", "é∂ 名"]
