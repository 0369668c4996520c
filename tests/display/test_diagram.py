"""MLP.diagram: well-formed pictures with a row for each layer."""

from __future__ import annotations

import copy
import pickle
import re

import fastmlp as fm
import pytest
from display_cases import HOSTILE, SVG, every_kind, square, tree, twice, words

TIMES = "\N{MULTIPLICATION SIGN}"


def rows(mlp, **options):
    """The groups of layers and residual connections, with their descriptions."""
    picture = tree(str(mlp.diagram(**options)))
    groups = [(g.find(f"{SVG}title").text, g) for g in picture.iter(f"{SVG}g")]
    assert all(title for title, _ in groups)
    return groups


def layers(mlp, **options):
    found = rows(mlp, **options)
    return {title: group for title, group in found if "connection" not in title}


def connections(mlp):
    return [title for title, _ in rows(mlp) if "connection" in title]


def units(group):
    return len(list(group.iter(f"{SVG}circle")))


def test_all_kinds_of_layer():
    found = layers(every_kind())
    assert list(found) == [
        "input: Input 3, float32",
        "0: Dense 3 → 4, no bias, tanh · 12 parameters",
        "2: BatchNorm, 8 parameters",
        "3: Dropout(0.25)",
        "4.body.0: LayerNorm, 8 parameters",
        "4.body.1.body.0: Dense 4 → 5, relu · 25 parameters",
        "4.body.1.body.2: sin",
        "4.body.1.body.3: Dense 5 → 6, relu · 36 parameters",
        "4.body.1: Residual, projection 4 → 6 · 30 parameters",
        "4: Residual, projection 4 → 6 · 30 parameters",
        "5.body.0: Dense 6 → 6, 42 parameters",
        "5.body.1: RMSNorm, 6 parameters",
        "5: Residual",
        "6: square()",
        "7: Dense 6 → 2, softmax · 14 parameters",
    ]
    circles = [units(group) for group in found.values()]
    # The sum at the end of a residual block is a circle as well.
    assert circles == [3, 4, 0, 0, 0, 5, 0, 6, 1, 1, 6, 0, 1, 0, 2]
    assert connections(every_kind()) == [
        "4.body.1: residual connection, Projection 4 → 6",
        "4: residual connection, Projection 4 → 6",
        "5: residual connection",
    ]
    assert any("stroke-dasharray" in e.attrib for e in found["3: Dropout(0.25)"].iter())


def test_labels_are_the_descriptions():
    mlp = every_kind("float64")
    for title, group in layers(mlp).items():
        _, *shown = words(group)
        name, _, label = title.partition(": ")
        text = ", ".join(part.lstrip("· ") for part in shown)
        assert text == label, name
    assert words(tree(str(mlp.diagram())))[-1] == f"{mlp.n_params} parameters in all"


@pytest.mark.parametrize(
    ("max_units", "expected"), [(16, [16, 0, 3]), (17, [16, 17, 3]), (0, [0, 0, 0])]
)
def test_only_small_layers_have_units(max_units, expected):
    mlp = fm.MLP([16, 17, 3], seed=0)
    groups = layers(mlp, max_units=max_units).values()
    assert [units(group) for group in groups] == expected
    blocks = [g.find(f"{SVG}rect") for g in groups]
    assert [b is None for b in blocks] == [n > 0 for n in expected]
    # A block has its width as text.
    for group, n, width in zip(groups, expected, mlp_widths(mlp), strict=True):
        assert (str(width) in words(group)) == (n == 0)


def mlp_widths(mlp):
    return [mlp.n_in, *(w.shape[1] for w in mlp.weights)]


def test_wider_layers_are_wider_blocks():
    mlp = fm.MLP([20, 100, 1000, 10_000, 100_000], init="zeros")
    sizes = [float(g.find(f"{SVG}rect").get("width")) for g in layers(mlp).values()]
    assert sizes == sorted(sizes)
    assert len(set(sizes[:4])) == 4
    assert sizes[3] == sizes[4] <= 300
    assert mlp.diagram()._size[0] < 700


def test_units_are_connected_as_the_layers_compute():
    mlp = fm.MLP([2, 3, fm.Dropout(0.5), 4], seed=0)
    lines = [p.get("d").count("M") for p in tree(str(mlp.diagram())).iter(f"{SVG}path")]
    assert lines == [2 * 3, 3, 3 * 4]


def test_very_many_connections_are_a_band():
    mlp = fm.MLP([150, 150, 100, 1], init="zeros")
    picture = tree(str(mlp.diagram(max_units=150)))
    lines = [p.get("d").count("M") for p in picture.iter(f"{SVG}path")]
    assert lines == [1, 150 * 100, 100]
    groups = layers(mlp, max_units=150).values()
    assert [units(group) for group in groups] == [150, 150, 100, 1]


def numbers(picture):
    """All coordinates of a picture, of pairs x and y."""
    for element in picture.iter():
        if element.tag == f"{SVG}circle":
            yield float(element.get("cx")), float(element.get("cy"))
        if element.tag in (f"{SVG}rect", f"{SVG}text"):
            yield float(element.get("x")), float(element.get("y"))
        if element.tag == f"{SVG}rect":
            x, y = float(element.get("x")), float(element.get("y"))
            wide, high = float(element.get("width")), float(element.get("height"))
            yield x + wide, y + high
        if element.tag == f"{SVG}path":
            for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", element.get("d")):
                yield float(x), float(y)
            for x in re.findall(r"H([\d.-]+)", element.get("d")):
                yield float(x), 0.0


NETWORKS = {
    "every kind": every_kind,
    "one unit": lambda: fm.MLP([1, 1], seed=0),
    "wide": lambda: fm.MLP([784, 4096, 10], init="zeros"),
    "nested": lambda: fm.MLP([2, fm.Residual([fm.Residual([fm.Residual([20])])])]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_within_the_picture(name):
    picture = tree(str(NETWORKS[name]().diagram()))
    _, _, width, height = map(float, picture.get("viewBox").split())
    assert (picture.get("width"), picture.get("height")) == (
        f"{width:g}",
        f"{height:g}",
    )
    for x, y in numbers(picture):
        assert 0 <= x <= width
        assert 0 <= y <= height
    # Texts end within the picture, if a letter takes 7 pixels on average.
    for text in picture.iter(f"{SVG}text"):
        if text.get("text-anchor") is None:
            assert float(text.get("x")) + 7 * len("".join(text.itertext())) <= width


def test_equal_layers_of_a_long_network_are_drawn_once():
    few = fm.MLP([2, *[64] * 20, 1], seed=0)
    assert len(layers(few)) == 22
    many = fm.MLP([2, *[64] * 40, 1], seed=0)
    assert list(layers(many)) == [
        "input: Input 2, float32",
        "0: Dense 2 → 64, relu · 192 parameters",
        "2: Dense 64 → 64, relu · 4,160 parameters",
        "80: Dense 64 → 1, 65 parameters",
    ]
    assert f"{TIMES} 39" in words(tree(str(many.diagram())))


def test_equal_blocks_of_a_long_network_are_drawn_once():
    body = [fm.LayerNorm(), fm.Dense(8, "gelu"), fm.Dense(4, "identity")]
    mlp = fm.MLP([3, 4, *[fm.Residual(body)] * 9, 4, *[fm.Residual(body)] * 2, 1])
    assert [title.split(":")[0] for title in layers(mlp)] == [
        *("input", "0", "2.body.0", "2.body.1", "2.body.3", "2"),
        *("11", "13.body.0", "13.body.1", "13.body.3", "13"),
        *("14.body.0", "14.body.1", "14.body.3", "14", "15"),
    ]
    assert [w for w in words(tree(str(mlp.diagram()))) if TIMES in w] == [f"{TIMES} 9"]
    assert len(connections(mlp)) == 3


def test_layers_after_a_dense_layer_are_drawn_with_it():
    mlp = fm.MLP([4, *[4, fm.BatchNorm(), fm.Dropout(0.5)] * 9, 4, 2], seed=0)
    kinds = [title.split(": ")[1].split()[0] for title in layers(mlp)]
    assert kinds == ["Input", "Dense", "BatchNorm,", "Dropout(0.5)", "Dense", "Dense"]
    assert f"{TIMES} 9" in words(tree(str(mlp.diagram())))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_escaped(name):
    def function(z):
        return z

    function.__name__ = name
    mlp = fm.MLP([2, fm.Activation(function, twice), 1], seed=0)
    shown = re.sub("[\x00\x1b\ud800]", "\ufffd", name)
    for text in (str(mlp.diagram()), mlp.diagram()._repr_html_()):
        assert f"0: {shown}()" in words(tree(text))
        assert "<script" not in text
    text = mlp._repr_html_()
    assert shown + "()" in " ".join(words(tree(text)))
    assert "<script" not in text
    assert "<script" not in mlp.summary()._repr_html_()


def test_long_names_are_cut():
    def function(z):
        return z

    function.__name__ = "f" * 300
    mlp = fm.MLP([2, fm.Activation(function, twice), 1], seed=0)
    (title, group), *_ = [g for g in rows(mlp) if g[0].startswith("0: ")]
    assert title == f"0: {'f' * 300}()"
    assert words(group)[-1] == "f" * 47 + "…"


def test_pictures_suit_light_and_dark_pages():
    diagram = every_kind().diagram()
    for text in (str(diagram), diagram._repr_html_()):
        picture = tree(text)
        assert {t.get("fill") for t in picture.iter(f"{SVG}text")} == {"currentColor"}
        # No area covers the page: filled areas are faint.
        for element in picture.iter():
            if element.tag != f"{SVG}text" and element.get("fill", "none") != "none":
                faint = float(element.get("fill-opacity", 1)) <= 0.3
                assert faint or float(element.get("width")) <= 10
        assert not any("id" in e.attrib or "class" in e.attrib for e in picture.iter())
    # A style sheet within a page would apply to all of it.
    assert "<style>" in str(diagram)
    # A file alone is shown on a dark background only if it says that it suits one.
    assert "color-scheme:light dark" in str(diagram)
    assert "<style>" not in diagram._repr_html_()


def test_layers_are_described():
    for mlp in (every_kind(), fm.MLP([300, 1], seed=0)):
        for text in (str(mlp.diagram()), mlp.diagram()._repr_html_()):
            details = tree(text).find(f"{SVG}desc").text
            assert details.split("; ") == list(layers(mlp))
    body = [fm.LayerNorm(), 4]
    mlp = fm.MLP([4, *[4] * 20, *[fm.Residual(body)] * 9, 1], seed=0)
    details = tree(str(mlp.diagram())).find(f"{SVG}desc").text.split("; ")
    assert [row for row in details if "times" in row] == [
        "0: Dense 4 → 4, relu · 20 parameters (20 times)",
        "40: Residual (these 3 layers 9 times)",
    ]


def test_large_numbers_have_separators():
    text = repr(fm.MLP([10_000, 1], init="zeros").diagram())
    assert text == (
        "<Diagram: network of 10,000 inputs, 1 output and 10,001 parameters>"
    )


def test_pictures_are_described():
    mlp = fm.MLP([784, 512, 1], seed=0)
    picture = tree(str(mlp.diagram()))
    text = f"network of 784 inputs, 1 output and {mlp.n_params:,} parameters"
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == text == picture[0].text
    assert picture[0].tag == f"{SVG}title"
    assert repr(mlp.diagram()) == f"<Diagram: {text}>"


def test_files(tmp_path):
    diagram = every_kind().diagram()
    for path in (tmp_path / "net.svg", str(tmp_path / "NET.SVG")):
        diagram.save(path)
        with open(path, encoding="utf-8", newline="") as file:
            assert file.read() == str(diagram) + "\n"
    assert diagram._repr_svg_() == str(diagram)
    with pytest.raises(ValueError, match=r"path must end in '\.svg', got 'net\.png'"):
        diagram.save("net.png")
    with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got 3"):
        diagram.save(3)
    with pytest.raises(FileNotFoundError):
        diagram.save(tmp_path / "missing" / "net.svg")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "max_units must be at least 0, got -1"),
        (2.5, TypeError, "max_units must be an int"),
        (True, TypeError, "max_units must be an int"),
    ],
)
def test_wrong_arguments(value, error, message):
    with pytest.raises(error, match=message):
        fm.MLP([1, 1], seed=0).diagram(max_units=value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_diagrams_can_be_pickled(protocol):
    diagram = every_kind().diagram()
    again = pickle.loads(pickle.dumps(diagram, protocol))
    assert str(again) == str(diagram) == str(copy.deepcopy(diagram))


def test_imported_models_have_diagrams():
    mlp = fm.MLP([4, 8, fm.BatchNorm(), fm.Activation(square, twice), 3], seed=0)
    for other in (mlp.copy(), mlp.fold(), pickle.loads(pickle.dumps(mlp))):
        title = list(layers(other))[-1]
        assert re.fullmatch(r"\d: Dense 8 → 3, 27 parameters", title)
