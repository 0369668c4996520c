"""fastmlp.plot: the contents of the plots."""

from __future__ import annotations

import subprocess
import sys

import fastmlp as fm
import numpy as np
import pytest

matplotlib = pytest.importorskip(
    "matplotlib", reason="fastmlp.plot needs matplotlib, the extra 'plot'"
)
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from fastmlp import plot  # noqa: E402
from fastmlp.plot import _loss_surface, _style  # noqa: E402

# A path is projected by least squares in float64.
PATH_ATOL = 1e-9


@pytest.fixture(autouse=True)
def _draw_and_close():
    """Render every plot, because some errors occur only then."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def texts(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def named(ax, label):
    """Return the line or points with a label."""
    return next(a for a in (*ax.lines, *ax.collections) if a.get_label() == label)


def history(loss, val_loss=(), **metrics):
    result = fm.History(has_validation=bool(val_loss))
    result.loss, result.val_loss = list(loss), list(val_loss)
    for name, values in metrics.items():
        for value in values:
            result.log(name, value)
    return result


def net(layers, **options):
    """Return a model with random biases, so that joints are apart."""
    mlp = fm.MLP(layers, dtype="float64", seed=0, **options)
    rng = np.random.default_rng(0)
    for bias in mlp.biases:
        bias[:] = rng.uniform(-0.5, 0.5, bias.shape)
    return mlp


def recorded():
    """Return a monitor with records of two epochs."""
    mlp = net([2, 3, 1])
    monitor = fm.Monitor(path=True)
    monitor.on_train_begin(_watched(mlp), fm.History())
    for epoch in (1, 2):
        watched = _watched(mlp)
        watched.core.last = {
            "grads": np.linspace(-1, 1, mlp.n_params),
            "before": mlp.params * (1 + 10.0**-epoch),
            "outputs": [np.ones((4, 3)) * [0, epoch - 1, 1], np.ones((4, 1))],
            "rows": 4,
        }
        monitor.on_epoch_end(watched, history([1.0] * epoch))
    return monitor


def _watched(mlp):
    """Return a copy of a model whose core has a scripted last step."""
    copy = mlp.copy()
    copy.core = _WatchedCore(mlp.core)
    return copy


class _WatchedCore:
    def __init__(self, net):
        self.ops, self.last, self.watch = net.ops, None, False

    def last_step(self):
        return self.last


def test_matplotlib_is_loaded_when_a_picture_is_drawn():
    code = (
        "import sys, fastmlp as fm; fm.plot.network; "
        "assert 'matplotlib' not in sys.modules; sys.modules['matplotlib'] = None\n"
        "try: fm.plot.network(fm.MLP([1, 1]))\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    wanted = "fastmlp.plot needs matplotlib: pip install 'fastmlp[plot]'\n"
    assert run.stdout == wanted


def test_all_is_exported_and_documented():
    assert fm.plot is plot
    for name in plot.__all__:
        assert "Returns" in getattr(plot, name).__doc__


# ------------------------------------------------------------------- learning curves


def test_learning_curves():
    fig = plot.learning_curves(
        history([3, 2, 1], [3.5, 1.5, 2], val_accuracy=[0.1, 0.2, 0.3])
    )
    loss, metric = fig.axes
    np.testing.assert_array_equal(
        named(loss, "training").get_xydata(), [[1, 3], [2, 2], [3, 1]]
    )
    np.testing.assert_array_equal(named(loss, "validation").get_ydata(), [3.5, 1.5, 2])
    assert texts(loss) == ["training", "validation", "best, epoch 2: 1.5"]
    best = named(loss, "best, epoch 2: 1.5").get_xydata()
    np.testing.assert_array_equal(best, [[2, 1.5]])
    assert (loss.get_ylabel(), metric.get_ylabel()) == ("loss", "metric")
    assert metric.get_xlabel() == "epoch"
    assert texts(metric) == ["val_accuracy"]
    assert loss.get_yscale() == "linear"
    assert named(loss, "training").get_color() != named(loss, "validation").get_color()


def test_learning_curves_of_a_pipeline_are_those_of_its_last_step():
    pipeline = pytest.importorskip("sklearn.pipeline").make_pipeline("passthrough")
    with pytest.raises(TypeError, match=r"got a Pipeline; pass .* pipeline\[-1\]"):
        plot.learning_curves(pipeline)


def test_learning_curves_scale_and_place():
    figure = plt.figure()
    part = figure.subfigures(1, 2)[1]
    assert plot.learning_curves(history([100, 10, 1]), fig=part) is part
    assert part.axes[0].get_yscale() == "log"
    assert texts(part.axes[0])[-1] == "best, epoch 3: 1"
    linear = plot.learning_curves(history([100, 1]), log=False)
    assert linear.axes[0].get_yscale() == "linear"
    below = plot.learning_curves(history([1, -100]))
    assert below.axes[0].get_yscale() == "linear"
    odd = plot.learning_curves(history([2, 1], [np.nan, np.nan]))
    assert texts(odd.axes[0]) == ["training", "validation"]


def inside(ax):
    """Return the texts of the ticks of the x axis that are within its limits."""
    low, high = ax.get_xlim()
    ax.figure.canvas.draw()
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    return [text.get_text() for place, text in ticks if low <= place <= high]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1.0], ["1"]),
        ([np.nan], ["1"]),
        ([2.0, 1.0], ["1", "2"]),
        ([np.inf, 1.0, -np.inf], ["1", "2", "3"]),
        ([1e308, -1e308, 1e308], ["1", "2", "3"]),
    ],
)
def test_every_epoch_is_on_the_axis(values, ticks):
    assert inside(plot.learning_curves(history(values)).axes[0]) == ticks
    monitor = recorded()
    monitor.update_ratios = {"0": [np.nan, np.nan], "2": [0.0, 0.0]}
    assert inside(plot.update_ratios(monitor)) == ["1", "2"]


def test_values_that_are_not_finite_are_not_the_best():
    fig = plot.learning_curves(history([np.inf, 1.0, 2.0, -np.inf]))
    assert texts(fig.axes[0]) == ["training", "best, epoch 2: 1"]


def test_metrics_can_be_told_apart():
    names = [f"_{i}" for i in range(12)]
    metrics = {name: [1.0, 2.0] for name in names}
    fig = plot.learning_curves(history([2.0, 1.0], **metrics))
    # Matplotlib leaves labels that begin with "_" out of a legend.
    assert [text.strip() for text in texts(fig.axes[1])] == names
    styles = {(line.get_color(), line.get_linestyle()) for line in fig.axes[1].lines}
    assert len(styles) == len(names)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_learning_curves_of_estimators():
    pytest.importorskip("sklearn", reason="the estimators need it")
    from sklearn.neural_network import MLPRegressor

    x = np.random.default_rng(0).standard_normal((40, 2))
    options = {"max_iter": 3, "early_stopping": True, "random_state": 0}
    for kind in (fm.sklearn.MLPRegressor, MLPRegressor):
        model = kind(hidden_layer_sizes=(4,), **options)
        with pytest.raises(TypeError, match=r"fitted estimator .* got an MLPRegressor"):
            plot.learning_curves(model)
        losses, scores = plot.learning_curves(model.fit(x, x[:, 0])).axes
        drawn = named(losses, "training").get_xydata()
        np.testing.assert_array_equal(drawn.T, [[1, 2, 3], model.loss_curve_])
        drawn = named(scores, "validation score").get_ydata()
        np.testing.assert_array_equal(drawn, model.validation_scores_)
        if kind is fm.sklearn.MLPRegressor:
            drawn = named(losses, "validation").get_ydata()
            np.testing.assert_array_equal(drawn, model.validation_loss_curve_)
            for draw in (plot.network, plot.histograms):
                with pytest.raises(TypeError, match="; pass its attribute mlp_"):
                    draw(model)


def test_learning_curves_refuse():
    with pytest.raises(TypeError, match=r"history must be an fm\.History or .*a list"):
        plot.learning_curves([1, 2])
    with pytest.raises(TypeError, match=r"got an MLP; mlp\.fit returns it"):
        plot.learning_curves(net([1, 1]))
    with pytest.raises(ValueError, match="at least one epoch"):
        plot.learning_curves(fm.History())


# --------------------------------------------------------------------------- monitor


def test_histograms_of_a_model():
    mlp = net([3, 20, 2])
    fig = plot.histograms(mlp, bins=10)
    assert [ax.get_title() for ax in fig.axes] == ["0: dense relu", "2: dense"]
    for ax, weight in zip(fig.axes, mlp.weights, strict=True):
        counts, edges = np.histogram(weight, bins=10)
        drawn = ax.patches[0].get_data()
        np.testing.assert_array_equal(drawn.values, counts)
        np.testing.assert_allclose(drawn.edges, edges)
        assert ax.get_xlabel() == "weight"
    assert fig.axes[0].get_ylabel() == "count"


def test_histograms_of_a_monitor():
    monitor = recorded()
    fig = plot.histograms(monitor, epoch=1)
    assert fig.get_suptitle() == "Epoch 1"
    assert len(fig.axes) == 6
    labels = [ax.get_xlabel() for ax in fig.axes]
    assert labels == [n for n in ("weight", "activation", "gradient") for _ in "02"]
    drawn = fig.axes[2].patches[0].get_data()
    np.testing.assert_array_equal(drawn.values, monitor.activations["0"][0].counts)
    assert len(plot.histograms(monitor, "gradients").axes) == 2
    with pytest.raises(ValueError, match=r"epoch must be one of .*\[1, 2\], got 3"):
        plot.histograms(monitor, epoch=3)
    with pytest.raises(ValueError, match="what must be one of"):
        plot.histograms(monitor, "weight")
    with pytest.raises(ValueError, match="what must be one of weights"):
        plot.histograms(net([1, 1]), "gradients")
    monitor.epochs = list(range(1, 5001))
    with pytest.raises(ValueError, match=r", \[1, 2, \.\.\., 5000\], got 5001"):
        plot.histograms(monitor, epoch=5001)


def test_dead_units():
    ax = plot.dead_units(recorded())
    assert texts(ax) == ["0: dense relu (3)"]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1, 200 / 3], [2, 100 / 3]])
    assert ax.get_xlabel() == "epoch"
    assert "%" in ax.get_ylabel()
    with pytest.raises(ValueError, match="has not recorded an epoch"):
        plot.dead_units(fm.Monitor())
    with pytest.raises(TypeError, match=r"monitor must be an fm\.Monitor"):
        plot.dead_units(fm.MLP([1, 1]))


def test_update_ratios():
    ax = plot.update_ratios(recorded())
    assert texts(ax) == ["0: dense relu", "2: dense", "rule of thumb"]
    for line in ax.lines[:2]:
        # A step from w (1 + r) to w has the ratio r / (1 + r).
        np.testing.assert_allclose(line.get_ydata(), np.log10([0.1 / 1.1, 0.01 / 1.01]))
    _, given = plt.subplots()
    assert plot.update_ratios(recorded(), ax=given) is given


# ----------------------------------------------------------------------- 1-D and 2-D


def test_fit_1d_of_a_piecewise_linear_net():
    mlp = net([1, 6, 1])
    x = np.linspace(-3, 3, 20)
    fig = plot.fit_1d(mlp, x, np.sin(x))
    top, bottom = fig.axes
    found = fm.regions.count_regions(mlp, -3, 3)
    assert found.count > 2
    data = named(top, "data").get_offsets()
    np.testing.assert_allclose(data, np.stack([x, np.sin(x)], axis=1))
    line = named(top, "fit").get_xydata()
    np.testing.assert_allclose(line[:, 1], mlp.predict(line[:, :1])[:, 0])
    joints = named(top, f"joints ({found.count - 1})").get_xydata()
    np.testing.assert_allclose(joints[:, :1], found.points)
    np.testing.assert_allclose(joints[:, 1:], mlp.predict(found.points))
    np.testing.assert_array_equal(bottom.collections[0].get_array(), found.patterns.T)
    assert texts(bottom) == ["active", "inactive"]
    assert top.get_title() == f"Fit of {found.count} linear pieces"
    assert [a.get_ylabel() for a in fig.axes] == ["y", "unit"]
    assert bottom.get_xlabel() == "x"


def test_fit_1d_of_a_smooth_net():
    fig = plot.fit_1d(net([1, 6, 2], activation="tanh"), [[0.0], [1.0]], output=1)
    (ax,) = fig.axes
    assert texts(ax) == ["fit"]
    with pytest.raises(ValueError, match="one input"):
        plot.fit_1d(net([2, 1]), [0, 1])
    with pytest.raises(ValueError, match="at least two different values"):
        plot.fit_1d(net([1, 1]), [1, 1])
    with pytest.raises(ValueError, match="output must be below 1"):
        plot.fit_1d(net([1, 1]), [0, 1], output=1)


@pytest.mark.parametrize("units", [1, 2])
def test_units_are_marked_by_whole_numbers(units):
    _, bottom = plot.fit_1d(net([1, units, 1]), [-3, 3]).axes
    bottom.figure.canvas.draw()
    numbers = {text.get_text() for text in bottom.get_yticklabels()}
    assert {"1", str(units)} <= numbers <= set("0123")


def test_outputs_that_are_not_finite_are_refused():
    line, plane = net([1, 3, 1]), net([2, 3, 2])
    for mlp in (line, plane):
        mlp.params[:] = np.nan
    x = [[0.0, 0.0]]
    calls = [
        lambda: plot.fit_1d(line, [0, 1]),
        lambda: plot.level_sets(plane),
        lambda: plot.decision_regions(plane, x, [0]),
        lambda: plot.loss_surface(plane, x, [0], fm.CrossEntropy(), resolution=2),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"mlp must have .*finite .*, got none"):
            call()
    assert not plt.get_fignums()  # no empty figure is left


def test_decision_regions():
    mlp = net([2, 3])
    x = np.random.default_rng(0).standard_normal((40, 2))
    labels = np.arange(40) % 3
    ax = plot.decision_regions(mlp, x, labels, names=["a", "b", "c"], resolution=20)
    assert texts(ax) == ["a", "b", "c"]
    mesh = ax.collections[0]
    corners = np.stack(np.meshgrid(ax.get_xlim(), ax.get_ylim()), axis=-1)
    won = mlp.predict(corners.reshape(4, 2)).argmax(axis=1)
    np.testing.assert_array_equal(mesh.get_array()[::19, ::19].ravel(), won)
    for k, name in enumerate("abc"):
        points = named(ax, name).get_offsets()
        np.testing.assert_array_equal(points, x[labels == k])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x_1$", "$x_2$")


@pytest.mark.parametrize("output_activation", ["identity", "sigmoid"])
def test_decision_regions_of_one_output(output_activation):
    mlp = net([2, 1], output_activation=output_activation)
    mlp.weights[0][:], mlp.biases[0][:] = [[1], [0]], 0
    x = np.array([[-1.0, -1], [1, 1]])
    ax = plot.decision_regions(mlp, x, [-1, 1], resolution=30)
    won = ax.collections[0].get_array()
    assert won[:, :15].max() == 0
    assert won[:, 15:].min() == 1
    with pytest.raises(ValueError, match="labels must be classes from 0 to 1"):
        plot.decision_regions(mlp, x, [0, 2])
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\)"):
        plot.decision_regions(mlp, x, [0])
    with pytest.raises(ValueError, match=r"names must have .* 2 classes"):
        plot.decision_regions(mlp, x, [0, 1], names=["a"])


def test_level_sets():
    mlp = net([2, 2], output_activation="identity")
    mlp.weights[0][:], mlp.biases[0][:] = [[1, 1], [0, 0]], [0, 5]
    ax = plot.level_sets(mlp, ((0, 4), (0, 1)), output=1, levels=[6, 7, 8])
    lines = ax.collections[1]
    np.testing.assert_array_equal(lines.levels, [6, 7, 8])
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        np.testing.assert_allclose(path.vertices[:, 0], level - 5)
    assert ax.get_title() == "Level sets, output 1"
    assert ax.figure.axes[1].get_ylabel() == "output 1"
    mlp.weights[0][:] = 0
    plot.level_sets(mlp)  # a constant function has no levels but can be drawn


def test_linear_regions():
    mlp = net([2, 8, 1])
    found = fm.regions.count_regions_2d(mlp, ((-1, 1), (-2, 2)))
    ax = plot.linear_regions(mlp, ((-1, 1), (-2, 2)))
    assert len(ax.collections[0].get_paths()) == found.count
    assert ax.get_title() == f"{found.count} linear regions"
    assert ax.get_ylim() == (-2, 2)
    assert ax.figure.axes[1].get_ylabel() == "active units of 8"


# ---------------------------------------------------------------------- loss surface


def quadratic():
    """Return a model without bias and data; its loss is quadratic around (1, 2).

    With w the distance from there, the loss is (w1² + 100 w2²) / 2.
    """
    mlp = fm.MLP([2, fm.Dense(1, bias=False)], dtype="float64", seed=0)
    mlp.params[:] = [1, 2]
    x = np.diag([1.0, 10.0])
    return mlp, x, x @ [[1.0], [2.0]]


def test_loss_surface_along_a_path():
    mlp, x, y = quadratic()
    t = np.linspace(1, 0, 9)[:, np.newaxis]
    path = np.hstack([1 + 3 * t, 2 + 0.5 * t**2])
    before = mlp.params.copy()
    ax = plot.loss_surface(mlp, x, y, fm.MSE(), path=path, resolution=9)
    np.testing.assert_array_equal(mlp.params, before)
    drawn = named(ax, "path").get_xydata()
    assert texts(ax) == ["path", "start", "the model"]
    # The path lies in the plane: distances from the model, at the origin, are kept.
    lengths = np.linalg.norm(path - before, axis=1)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), lengths, atol=PATH_ATOL)
    np.testing.assert_array_equal(named(ax, "start").get_xydata(), drawn[:1])
    assert ax.get_xlabel().startswith("PCA direction 1 (9")
    # The model is inside the plot.
    (x_low, x_high), (y_low, y_high) = ax.get_xlim(), ax.get_ylim()
    assert x_low < 0 < x_high
    assert y_low < 0 < y_high
    assert ax.figure.axes[1].get_ylabel() == "loss"


def test_loss_surface_evaluates_at_the_grid(monkeypatch):
    mlp, x, y = quadratic()
    seen = []
    draw = plt.Axes.contourf

    def spy(self, a, b, height, *args, **kwargs):
        seen.append((a, b, np.array(height)))
        return draw(self, a, b, height, *args, **kwargs)

    monkeypatch.setattr(plt.Axes, "contourf", spy)
    path = np.array([[2.0, 2.0], [1.0, 2.5], [1.0, 2.0]])
    plot.loss_surface(mlp, x, y, fm.MSE(), path=path, resolution=5)
    ((a, b, height),) = seen
    # The principal directions of this path are the axes, up to their signs.
    grid_a, grid_b = np.meshgrid(a, b)
    expected = (grid_a**2 + 100 * grid_b**2) / 2
    np.testing.assert_allclose(height, expected, rtol=1e-9)


def test_a_constant_loss_has_levels_around_it():
    mlp = fm.MLP([2, fm.Dense(1, bias=False)], init="zeros")
    x, y = np.zeros((3, 2)), np.full(3, 2.0)
    ax = plot.loss_surface(mlp, x, y, fm.MSE(), resolution=3)
    np.testing.assert_array_equal(ax.collections[0].levels, [2, 6])


def test_random_directions_are_filter_normalised():
    mlp = net([3, 5, 2])
    direction = _loss_surface._filtered(mlp, 0, 0)
    assert direction.shape == mlp.params.shape
    at = 0
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        part = direction[at : at + weight.size].reshape(weight.shape)
        np.testing.assert_allclose(
            np.linalg.norm(part, axis=0), np.linalg.norm(weight, axis=0)
        )
        at += weight.size
        assert not direction[at : at + bias.size].any()
        at += bias.size
    assert (_loss_surface._filtered(mlp, 0, 1) != direction).any()


def test_loss_surface_options():
    mlp, x, y = quadratic()
    ax = plot.loss_surface(mlp, x, y, fm.MSE(), resolution=3, span=0.5)
    assert ax.get_xlim() == (-0.5, 0.5)
    assert texts(ax) == ["the model"]
    monitor = fm.Monitor(path=True)
    monitor.path = [mlp.params + 1, mlp.params]
    both = plot.loss_surface(
        mlp, x, y, fm.MSE(), path=monitor, directions="random", resolution=3
    )
    assert both.get_xlabel() == "first random direction"
    assert "path" in texts(both)
    with pytest.raises(ValueError, match="Monitor has not recorded a path"):
        plot.loss_surface(mlp, x, y, fm.MSE(), path=fm.Monitor())
    with pytest.raises(ValueError, match="path must have shape"):
        plot.loss_surface(mlp, x, y, fm.MSE(), path=np.ones((3, 4)))
    with pytest.raises(ValueError, match="needs the argument `path`"):
        plot.loss_surface(mlp, x, y, fm.MSE(), directions="pca")
    with pytest.raises(ValueError, match="directions must be one of"):
        plot.loss_surface(mlp, x, y, fm.MSE(), directions="both")


# --------------------------------------------------------------------------- network


def test_network():
    mlp = net([2, 3, 1])
    mlp.weights[1][:] = [[2], [-1], [0]]
    ax = plot.network(mlp)
    edges = [c for c in ax.collections if hasattr(c, "get_segments")]
    units = [c for c in ax.collections if not hasattr(c, "get_segments")]
    assert [len(c.get_segments()) for c in edges] == [6, 3]
    assert [len(c.get_offsets()) for c in units] == [2, 3, 1]
    # The line of the largest weight is the widest and drawn last.
    widths = edges[1].get_linewidths()
    assert (np.diff(widths) > 0).all()
    positive = matplotlib.colors.to_rgb(_style.ORANGE)
    np.testing.assert_allclose(edges[1].get_colors()[-1][:3], positive)
    negative = matplotlib.colors.to_rgb(_style.BLUE)
    np.testing.assert_allclose(edges[1].get_colors()[1][:3], negative)
    below = [t.get_text() for t in ax.texts]
    assert below == ["input\n2", "relu\n3", "identity\n1"]
    assert ax.get_title() == "2 inputs, 1 output, 13 parameters"
    assert texts(ax) == ["positive weight", "negative weight"]


def test_large_layers_are_abbreviated():
    ax = plot.network(net([50, 8, 20]), max_units=8)
    units = [c for c in ax.collections if not hasattr(c, "get_segments")]
    assert [len(c.get_offsets()) for c in units] == [8, 8, 8]
    assert [t.get_text() for t in ax.texts].count("⋮") == 2
    edges = [c for c in ax.collections if hasattr(c, "get_segments")]
    assert [len(c.get_segments()) for c in edges] == [64, 64]
    # Matplotlib cannot draw figures of any width.
    assert plot.network(net([2] * 700)).figure.get_figwidth() == _style.LARGEST
    with pytest.raises(ValueError, match="max_units must be at least 2"):
        plot.network(net([1, 1]), max_units=1)


def test_residual_blocks_are_arcs():
    mlp = fm.MLP([2, 4, fm.Residual([4, fm.LayerNorm(), 4]), fm.Residual([6]), 1])
    ax = plot.network(mlp)
    arcs = [line.get_xdata()[[0, -1]].round(9).tolist() for line in ax.lines]
    assert arcs == [[1, 3], [3, 4]]
    assert [t.get_text() for t in ax.texts] == [
        "input\n2",
        "relu\n4",
        "relu\n4\nlayer norm",
        "relu\n4",
        "relu\n6",
        "identity\n1",
        "+",
        "+ projection",
    ]
    assert texts(ax)[-1] == "skip connection"


def test_what_cannot_be_drawn():
    line, plane = net([1, 3, 1]), net([2, 3, 3])
    history_ = history([1.0, 0.5])
    calls = [
        (lambda: fm.plot.learning_curves(history_, log="yes"), "log must be"),
        (lambda: fm.plot.fit_1d(line, [0.0, 1.0], [1.0] * 3), "y must .* as x, 2"),
        (lambda: fm.plot.histograms(line, epoch=1), "epoch must be None"),
        (lambda: fm.plot.level_sets(plane, levels="many"), "levels must"),
        (lambda: fm.plot.level_sets(plane, levels=0), "levels must be at least 1"),
        (
            lambda: fm.plot.decision_regions(plane, [[np.nan, 0.0]], [0]),
            "x must be finite",
        ),
    ]
    for call, words in calls:
        with pytest.raises((TypeError, ValueError), match=words):
            call()
