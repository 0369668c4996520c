"""Arguments and attributes that do not exist: errors say what to write instead."""

import inspect
import pickle
import types

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._validate import elsewhere, hints

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
Y = X[:, :1]
MODULES = [fm, *(getattr(fm, name) for name in hints.MODULES)]


def model():
    return fm.MLP([4, 1], seed=0)


def said(call, *args, **kwargs):
    """Return the error of a call that names an argument or attribute wrongly."""
    with pytest.raises((TypeError, AttributeError)) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("call", "theirs", "ours"),
    [
        (fm.Adam, "learning_rate", "lr"),
        (fm.Adam, "epsilon", "eps"),
        (fm.Adam, "beta_1", "betas"),
        (fm.Adam, "b1", "betas"),
        (fm.Adam, "clipnorm", "clip_norm"),
        (fm.AdamW, "wd", "weight_decay"),
        (fm.SGD, "nesterovs_momentum", "nesterov"),
        (fm.RMSprop, "rho", "alpha"),
        (fm.CrossEntropy, "weight", "class_weight"),
        (fm.CrossEntropy, "labelsmoothing", "label_smoothing"),
        (fm.BinaryCrossEntropy, "weight", "pos_weight"),
        (fm.Huber, "beta", "delta"),
        (fm.Quantile, "quantiles", "q"),
        (fm.Dense, "units", "n"),
        (fm.Dense, "use_bias", "bias"),
        (fm.Dropout, "rate", "p"),
        (fm.GaussianNoise, "std", "stddev"),
        (fm.BatchNorm, "epsilon", "eps"),
        (fm.MLP, "hidden_layer_sizes", "layers"),
        (fm.MLP, "random_state", "seed"),
        (fm.MLP, "kernel_initializer", "init"),
        (fm.EarlyStopping, "restore_best_weights", "restore_best"),
        (fm.EarlyStopping, "n_iter_no_change", "patience"),
        (fm.Checkpoint, "filepath", "path"),
        (fm.Checkpoint.load, "filename", "path"),
        (fm.schedules.Cosine, "T_max", "period"),
        (fm.schedules.Step, "learning_rate", "lr"),
        (fm.Dense, "bias_initializer", "bias_init"),
        (fm.MLP, "kernel_init", "init"),
        (fm.initializers.Normal, "stddev", "std"),
        (fm.initializers.Uniform, "minval", "low"),
        (fm.initializers.Siren, "omega_0", "w0"),
        (fm.schedules.Polynomial, "total_iters", "steps"),
        (fm.schedules.Polynomial, "end_learning_rate", "min_lr"),
        (fm.schedules.Sequential, "schedulers", "schedules"),
        (fm.schedules.Piecewise, "boundaries", "milestones"),
        (fm.LBFGS, "history_size", "history"),
        (fm.rl.ReplayBuffer, "buffer_size", "capacity"),
        (fm.rl.TargetNetwork, "polyak", "tau"),
        (fm.rl.gae, "dones", "terminated"),
        (fm.rl.returns, "discount", "gamma"),
        (fm.metrics.accuracy, "y_pred", "pred"),
        (fm.load, "filename", "path"),
        (fm.threads, "num_threads", "n"),
        (fm.plot.network, "axes", "ax"),
        (model().fit, "n_epochs", "epochs"),
        (model().fit, "criterion", "loss"),
        (model().fit, "sample_weights", "sample_weight"),
        (model().evaluate, "loss_fn", "loss"),
        (model().save, "filepath", "path"),
        (model().predictor, "row", "rows"),
    ],
)
def test_keywords_of_other_libraries(call, theirs, ours):
    def use(**kwargs):
        result = call(**kwargs)
        if hasattr(result, "__enter__"):
            result.__enter__()

    message = said(use, **{theirs: 1})
    assert message.endswith(
        f"() got an unexpected keyword argument {theirs!r}; did you mean {ours!r}?"
    )


@pytest.mark.parametrize(
    ("call", "keyword", "hint"),
    [
        (fm.MLP, "dropout", "fm.Dropout(p)"),
        (fm.MLP, "lr", "fm.Adam(lr=1e-3)"),
        (fm.Adam, "params", "without parameters"),
        (fm.MSE, "from_logits", "takes logits"),
        (fm.Dense, "input_dim", "first number of fm.MLP's layers"),
        (fm.Dense, "weight_norm", "parametrization='weight_norm'"),
        (fm.BatchNorm, "num_features", "the width of the layer before"),
        (fm.LayerNorm, "normalized_shape", "the width of the layer before"),
        (fm.Adam, "scheduler", "as lr"),
        (model().fit, "learning_rate", "fm.Adam(lr=1e-3)"),
        (model().fit, "class_weight", "fm.CrossEntropy(class_weight=...)"),
        (model().fit, "validation_split", "validation_data=(xv, yv)"),
    ],
)
def test_keywords_without_an_equal(call, keyword, hint):
    assert hint in said(call, **{keyword: 1})


def test_keywords_without_a_likeness_are_answered_by_a_list():
    takes = "; it takes n, activation, bias, init, bias_init, parametrization"
    assert said(fm.Dense, zz=1).endswith(takes)
    # Options that all optimisers share are listed, too.
    assert "clip_norm" in said(fm.SGD, zz=1)
    assert said(model().summary, zz=1).endswith("; it takes no arguments")


def test_arguments_by_position():
    assert "as in fm.MLP([4, 8, 1])" in said(fm.MLP, 4, 8, 1)
    assert "fm.Residual([8, 8])" in said(fm.Residual, 8, 8)
    message = said(fm.CrossEntropy, [1.0, 2.0])
    assert message.startswith("CrossEntropy() takes no arguments by position")
    assert "class_weight" in message
    message = said(model().fit, X, Y, fm.MSE(), fm.Adam(), 10)
    assert message.startswith("MLP.fit() takes only x, y by position, but got 5")
    assert "loss, optimizer, epochs" in message


def test_optimizers_are_made_without_parameters():
    mlp = model()
    for given in (mlp.params, [mlp.params], list(mlp.weights), mlp, iter([mlp.params])):
        assert "without parameters" in said(fm.Adam, given)
        assert "without parameters" in said(fm.SGD, given, lr=0.1)

    class Rates:
        params = (0.1, 0.5)

        def __call__(self, step):
            return self.params[0] * self.params[1] ** step

    assert fm.SGD(Rates()).lr == 0.1  # a function of the step, not a model


def test_errors_within_a_call_are_not_touched():
    def loss(pred, target):
        return loss(pred, wrong=target)

    message = said(
        model().fit, X, Y, loss=loss, optimizer=fm.Adam(), epochs=1, batch_size=6
    )
    assert "got an unexpected keyword argument 'wrong'" in message
    assert "did you mean" not in message


def test_missing_arguments():
    assert said(fm.SGD) == "SGD() missing 1 required positional argument: 'lr'"
    assert said(model().save).startswith("MLP.save() missing 1 required ")
    assert said(model().fit, X, Y, epochs=1).startswith("MLP.fit() missing 2 required")


def test_static_and_class_methods():
    message = said(fm.Checkpoint.load, "path", model(), fm.Adam(), callback=1)
    assert message.startswith("Checkpoint.load() got an unexpected keyword argument")
    assert message.endswith("did you mean 'callbacks'?")
    assert said(fm.Checkpoint.load).startswith("Checkpoint.load() missing ")
    message = said(fm.History.from_dict, value={})
    assert message.startswith("History.from_dict() got an unexpected keyword argument")
    assert message.endswith("did you mean 'values'?")


def test_names_in_the_place_of_objects():
    step = model().train_step
    assert said(step, X, Y, "mse", fm.Adam()).endswith("; did you mean fm.MSE()?")
    hint = "; did you mean fm.CrossEntropy()?"
    assert said(step, X, Y, "categorical_crossentropy", fm.Adam()).endswith(hint)
    assert said(step, X, Y, fm.MSE(), "adam").endswith("; did you mean fm.Adam()?")
    assert said(step, X, Y, fm.MSE(), "rmsprop").endswith("did you mean fm.RMSprop()?")
    assert said(step, X, Y, fm.MSE(), "qqq").endswith("got 'qqq' (str)")


@pytest.mark.parametrize(
    ("call", "theirs", "ours"),
    [
        (lambda name: fm.MLP([4, 1], init=name), "xavier", "glorot_uniform"),
        (lambda name: fm.MLP([4, 1], init=name), "he", "he_normal"),
        (lambda name: fm.MSE(reduction=name), "avg", "mean"),
        (lambda name: fm.EarlyStopping(mode=name), "maximize", "max"),
        (lambda name: fm.Adam(eps_mode=name), "keras", "hat"),
        (lambda name: fm.Activation(name), "lrelu", "leaky_relu"),
    ],
)
def test_values_by_other_names(call, theirs, ours):
    with pytest.raises(ValueError, match=f"did you mean {ours!r}"):
        call(theirs)


def classes():
    found = set()
    for module in MODULES:
        for name in hints._public(module.__name__):
            value = getattr(module, name)
            if isinstance(value, type) and not issubclass(value, BaseException):
                found.add(value)
    return sorted(found, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_class_answers(cls):
    abstract = ("Loss", "Optimizer", "Solver")
    tuples = issubclass(cls, tuple)
    if cls.__name__ not in abstract and not tuples and "__init__" in dir(cls):
        message = said(cls, zzzz=1)
        assert message.startswith(f"{cls.__name__}() ") or "zzzz" in message
    for name, value in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("_") or name in hints.FAST or tuples:
            continue
        kinds = {p.kind for p in inspect.signature(value).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD in kinds:
            continue
        assert "'zzzz'; " in said(value, object(), zzzz=1), name


def functions():
    found = {}
    for module in MODULES:
        for name in hints._public(module.__name__):
            value = getattr(module, name)
            if isinstance(value, types.FunctionType):
                found[name] = value
    return found


# They take microseconds, in each step of a loop.
UNWRAPPED = {"epsilon_greedy", "sample_actions"}
# They take no arguments.
BARE = {"available_isas", "build_info", "get_num_threads", "isa", "show_config"}


def test_every_function_answers():
    for name, value in functions().items():
        if name in UNWRAPPED | BARE:
            continue

        def use(function=value):
            result = function(zzzz=1)
            if hasattr(result, "__enter__"):
                result.__enter__()

        assert "'zzzz'; " in said(use), name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("CrossEntropyLoss", "CrossEntropy"),
        ("BCEWithLogitsLoss", "BinaryCrossEntropy"),
        ("MSELoss", "MSE"),
        ("MeanSquaredError", "MSE"),
        ("L1Loss", "MAE"),
        ("SmoothL1Loss", "SmoothL1"),
        ("PoissonNLLLoss", "Poisson"),
        ("GaussianNLLLoss", "GaussianNLL"),
        ("Sequential", "MLP"),
        ("Linear", "Dense"),
        ("BatchNorm1d", "BatchNorm"),
        ("LayerNormalization", "LayerNorm"),
        ("RMSProp", "RMSprop"),
        ("adam", "Adam"),
        ("ModelCheckpoint", "Checkpoint"),
        ("StepLR", "schedules.Step"),
        ("CosineAnnealingLR", "schedules.Cosine"),
        ("ReduceLROnPlateau", "schedules.ReduceOnPlateau"),
        ("PolynomialLR", "schedules.Polynomial"),
        ("PolynomialDecay", "schedules.Polynomial"),
        ("LinearLR", "schedules.Linear"),
        ("ConstantLR", "schedules.ConstantFactor"),
        ("CyclicLR", "schedules.Cyclic"),
        ("SequentialLR", "schedules.Sequential"),
        ("ChainedScheduler", "schedules.Chained"),
        ("PiecewiseConstantDecay", "schedules.Piecewise"),
        ("join_schedules", "schedules.Sequential"),
        ("flat_cos", "schedules.FlatCosine"),
        ("RandomNormal", "initializers.Normal"),
        ("HeNormal", "initializers.VarianceScaling"),
        ("kaiming_normal_", "initializers.VarianceScaling"),
        ("trunc_normal_", "initializers.TruncatedNormal"),
        ("orthogonal_", "initializers.Orthogonal"),
        ("sparse_", "initializers.Sparse"),
        ("WSD", "schedules.WarmupStableDecay"),
        ("accuracy", "metrics.accuracy"),
        ("ReplayBuffer", "rl.ReplayBuffer"),
        ("learning_curves", "plot.learning_curves"),
        ("MLPClassifier", "sklearn.MLPClassifier"),
        ("optim", "optimizers"),
        ("load_model", "load"),
    ],
)
def test_names_of_other_libraries(theirs, ours):
    message = said(getattr, fm, theirs)
    wanted = f"module 'fastmlp' has no attribute {theirs!r}; did you mean fm.{ours}?"
    assert message == wanted


def test_names_in_the_wrong_module():
    assert said(getattr, fm.losses, "Adam").endswith("did you mean fm.Adam?")
    assert said(getattr, fm.losses, "HuberLoss").endswith("did you mean fm.Huber?")
    assert said(getattr, fm.schedules, "CosineDecay").endswith("fm.schedules.Cosine?")
    assert said(getattr, fm.metrics, "acuracy").endswith("fm.metrics.accuracy?")
    assert said(getattr, fm.plot, "learning_curve").endswith("plot.learning_curves?")
    assert said(getattr, fm.rl, "PPO").endswith("fm.rl.ClippedPolicyGradient?")
    assert "mlp(x) keeps nothing" in said(getattr, fm, "no_grad")
    for name in ("plot_model", "draw_graph", "make_dot"):
        assert "mlp.diagram()" in said(getattr, fm, name)
    for name in ("from_flax", "from_jax"):
        assert "mlp.weights and mlp.biases" in said(getattr, fm, name)
    for name in ("grad", "jit", "nn", "vmap", "LeakyReLU"):
        message = said(getattr, fm, name)
        assert message.endswith(elsewhere.MODULE[name.lower()])


@pytest.mark.parametrize(
    ("statement", "end"),
    [
        ("from fastmlp import CrossEntropyLoss", "did you mean fm.CrossEntropy?"),
        ("from fastmlp import MSE, Sequential", "did you mean fm.MLP?"),
        ("from fastmlp.losses import L1Loss", "did you mean fm.MAE?"),
        ("from fastmlp.rl import Replaybuffer", "did you mean fm.rl.ReplayBuffer?"),
        ("from fastmlp import qqq", "cannot import name 'qqq' from 'fastmlp'"),
    ],
)
def test_imports_of_names_that_do_not_exist(statement, end):
    with pytest.raises(ImportError, match=r"^cannot import name ") as caught:
        exec(statement, {})
    assert str(caught.value).endswith(end)


def test_other_names_get_no_hint():
    for module in MODULES:
        wanted = f"module {module.__name__!r} has no attribute "
        assert said(getattr, module, "qqq") == wanted + "'qqq'"
        assert said(getattr, module, "__losses__") == wanted + "'__losses__'"


def test_suggested_names_exist():
    for place in elsewhere.NAMES.values():
        value = fm
        for name in place.split("."):
            value = getattr(value, name)
    pytest.importorskip("sklearn", reason="the estimators need it")
    assert set(elsewhere.ESTIMATORS) == set(fm.sklearn.__all__)


def test_attributes_of_models():
    mlp = model()
    for name, hint in (
        ("train", "mlp.fit or mlp.train_step"),
        ("plot", "mlp.diagram()"),
        ("eval", "mlp(x) is inference"),
        ("parameters", "mlp.params"),
        ("zero_grad", "nothing to zero"),
        ("compile", "passed to fit"),
        ("partial_fit", "mlp.train_step"),
        ("coefs_", "mlp.weights"),
        ("predict_proba", "softmax"),
    ):
        message = said(getattr, mlp, name)
        assert message.startswith(f"'MLP' object has no attribute {name!r}; ")
        assert hint in message
        assert not hasattr(mlp, name)
        assert name not in dir(mlp)
        # Tools look at all that a class lists.
        assert not callable(getattr(fm.MLP, name))
    # A class of one's own may have such attributes.
    mine = type("Mine", (fm.MLP,), {"train": lambda self: 5})([4, 1], seed=0)
    mine.lr = mine.score = 3
    assert (mine.train(), mine.lr, mine.score) == (5, 3, 3)
    assert said(getattr, mine, "eval").startswith("'Mine' object")


def test_attributes_of_other_objects():
    opt = fm.Adam()
    assert "did you mean lr?" in said(getattr, opt, "learning_rate")
    assert "did you mean lr?" in said(setattr, opt, "learning_rate", 0.1)
    assert "nothing to zero" in said(getattr, opt, "zero_grad")
    assert "mlp.train_step" in said(getattr, fm.MSE(), "backward")
    assert "history['loss']" in said(getattr, fm.History(), "history")
    assert "as its lr" in said(getattr, fm.schedules.Cosine(0.1, 5), "step")
    assert "add?" in said(getattr, fm.rl.ReplayBuffer(4, 2), "push")
    for thing in (opt, fm.MSE(), fm.schedules.Cosine(0.1, 5)):
        bases = {cls.__name__ for cls in type(thing).__mro__}
        (base,) = bases & elsewhere.ATTRIBUTES.keys()
        names = elsewhere.ATTRIBUTES[base]
        assert not set(names) & set(dir(thing))


def test_attributes_of_estimators():
    pytest.importorskip("sklearn", reason="the estimators need it")
    for made in (fm.sklearn.MLPClassifier(), fm.sklearn.MLPRegressor()):
        assert "estimator.mlp_.history" in said(getattr, made, "history")
        assert "from_sklearn(estimator).to_c(path)" in said(getattr, made, "to_c")
        assert said(getattr, made, "network_").endswith("did you mean mlp_?")
        names = elsewhere.ATTRIBUTES["NetworkWeights"]
        assert not set(names) & set(dir(made))
        assert not any(hasattr(made, name) for name in names)


def test_no_attribute_is_hidden():
    pytest.importorskip("sklearn", reason="some classes are those of estimators")
    known = {
        base
        for cls in (*classes(), fm.sklearn.MLPClassifier)
        for base in cls.__mro__
        if base.__module__.startswith("fastmlp.")
    }
    for name, table in elsewhere.ATTRIBUTES.items():
        (cls,) = {base for base in known if base.__name__ == name}
        for attribute in table:
            assert isinstance(vars(cls)[attribute], hints._Elsewhere), attribute


def test_watched_classes_keep_their_signatures():
    assert list(inspect.signature(fm.MLP).parameters)[:3] == [
        "layers",
        "activation",
        "output_activation",
    ]
    assert list(inspect.signature(fm.MLP.fit).parameters)[:3] == ["self", "x", "y"]
    assert inspect.signature(fm.rl.gae).parameters["lam"].default == 0.95
    assert fm.MLP.fit.__doc__.startswith("Train for some epochs.")
    for function in (fm.metrics.mae, fm.rl.gae, fm.load, fm.MLP.fit):
        assert pickle.loads(pickle.dumps(function)) is function


def test_estimators_answer():
    pytest.importorskip("sklearn", reason="the estimators need it")
    for cls in (fm.sklearn.MLPClassifier, fm.sklearn.MLPRegressor):
        assert said(cls, lr=1).endswith("did you mean 'learning_rate_init'?")
        assert said(cls, epochs=1).endswith("did you mean 'max_iter'?")
        assert said(cls, layers=1).endswith("did you mean 'hidden_layer_sizes'?")
    assert said(getattr, fm.sklearn, "MLPRegresor").endswith("MLPRegressor?")
    assert "learning_rate_init" in fm.sklearn.MLPClassifier().get_params()


def test_suggested_keywords_exist():
    pytest.importorskip("sklearn", reason="the estimators need it")
    calls = [*functions().values(), *hints._watched]
    for cls in hints._watched:
        calls += [f for _, f in inspect.getmembers(cls, inspect.isfunction)]
    known = set()
    for call in calls:
        try:
            known |= set(inspect.signature(call).parameters)
        except ValueError:  # a class of the core
            continue
    for names in elsewhere.KEYWORDS.values():
        assert set(names) <= known, names
    places = {cls.__name__ for cls in hints._watched} | {"fit", "evaluate"}
    assert {place for place, _ in elsewhere.ARGUMENTS} <= places


def test_the_tables_are_sorted():
    for table in (elsewhere.KEYWORDS, elsewhere.MODULE):
        assert list(table) == sorted(table)
