"""Parts of the documentation that the two estimators share."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# scikit-learn's own parameters.
_PARAMETERS = """\
hidden_layer_sizes : int or sequence of int, default=(100,)
    Widths of the hidden layers; an empty sequence gives a linear model.
activation : str or sequence of str, default='relu'
    Activation of the hidden layers: 'identity', 'logistic' (or 'sigmoid'), 'tanh',
    'relu' or, beyond scikit-learn, any other of ``fastmlp.ACTIVATIONS``; or a sequence
    with one activation for each hidden layer.
solver : str, Optimizer or Solver, default='adam'
    'lbfgs' (SciPy's L-BFGS-B), 'sgd' or 'adam'; beyond scikit-learn 'adamw',
    'rmsprop', 'adagrad', or an object such as ``fm.RMSprop(lr=1e-3)`` or
    ``fm.LBFGS()``. Each fit uses a new copy of such an object.
alpha : float, default=0.0001
    Strength of the L2 penalty ½ alpha ΣW² / n, where W are the network's weights and n
    is the number of rows in the batch, or the sum of their sample weights. For 'adamw'
    this is the decoupled weight decay instead.
batch_size : int or 'auto', default='auto'
    Number of samples in a step; 'auto' is min(200, n_samples). Solvers that take no
    batches ignore it.
learning_rate : str, Schedule or callable, default='constant'
    Schedule of the learning rate. For 'sgd' it is 'constant', 'invscaling'
    (learning_rate_init / (t + 1)^power_t after each epoch, where t is the number of
    samples seen) or 'adaptive' (divided by 5 after more than n_iter_no_change
    consecutive epochs without an improvement by tol); other solvers treat these names
    as 'constant', as scikit-learn does. Beyond scikit-learn, for each solver that takes
    steps, it may be one of `fastmlp.schedules` or a function of the step (an int),
    which replaces learning_rate_init.
learning_rate_init : float, default=0.001
    Initial learning rate. Solver objects have their own and ignore this one.
power_t : float, default=0.5
    Exponent of 'invscaling'.
max_iter : int, default=200
    Largest number of epochs, or of iterations of solvers that take no batches.
shuffle : bool, default=True
    Whether to shuffle the samples in each epoch.
random_state : int, RandomState instance or None, default=None
    Source of random numbers, drawn in this order: initial weights, validation split,
    seed of dropout (if it is used), sample orders. Without dropout this is as in
    scikit-learn.
tol : float, default=1e-4
    Smallest change of the loss (or validation score, see ``early_stopping``) that
    counts as an improvement; for 'lbfgs' also the largest element of the gradient at
    convergence. Solver objects that take no batches have their own tolerance for that.
verbose : bool, default=False
    Whether to print the loss of each epoch (for 'lbfgs', of each iteration).
warm_start : bool, default=False
    Whether to start from the weights of the last fit.
momentum : float, default=0.9
    Momentum of 'sgd'.
nesterovs_momentum : bool, default=True
    Whether to use Nesterov's momentum in 'sgd'.
early_stopping : bool, default=False
    Whether to base stopping on the score on held-out data instead of the training loss,
    and to restore the weights with the best score. Beyond scikit-learn, this holds for
    solvers that take no batches, too. The held-out data are a part of the training
    data, or those given to `fit`. The score of a classifier is its accuracy. That of a
    regressor is R² for the losses that scikit-learn has by name; for every other loss,
    and for a single held-out row, it is minus the loss, and ``tol`` is relative to the
    best loss. Class weights count in the score and in `validation_loss_curve_`.
validation_fraction : float, default=0.1
    Fraction of the training data held out for early stopping.
beta_1, beta_2 : float, default=0.9, 0.999
    Decay rates of the moment estimates of 'adam' and 'adamw'.
epsilon : float, default=1e-8
    Term added to denominators by 'adam', 'adamw' and 'rmsprop'.
n_iter_no_change : int, default=10
    Largest number of consecutive epochs without improvement; more of them stop the
    training.
max_fun : int, default=15000
    Largest number of evaluations of the loss by 'lbfgs'."""

# Parameters that scikit-learn does not have.
_MORE_PARAMETERS = """\
dropout : float or sequence of float, default=0.0
    Probability that an element of a hidden layer's output is set to 0; one value for
    all layers, or one for each layer.
normalization : {'layer', 'rms', 'batch'} or None, default=None
    Normalisation between the affine map of a hidden layer and its activation. With
    'batch', a last batch of a single row is left out of the epoch.
callbacks : list or None, default=None
    Callbacks of `fastmlp.callbacks`, or functions of (mlp, history). Each fit uses
    copies of fastmlp's callbacks and of those derived from them; your own objects are
    used as they are, and clones share them. `partial_fit` does not call callbacks. They
    find the score on held-out data under the name "val_accuracy" or "val_r2".
dtype : {'float32', 'float64'} or None, default=None
    Precision of the weights and of computation (for 'lbfgs', see the notes). None means
    float32 if X is float32 and float64 otherwise, as in scikit-learn.
compute_dtype : {'float32', 'float64', 'bfloat16'} or None, default=None
    Type of the operands of matrix products; None means the precision of the weights.
    'bfloat16' is faster on CPUs with instructions for it; see `fastmlp.MLP`. The
    weights are then float32, unless ``dtype`` asks for something else, which is an
    error. 'lbfgs' does not round the operands.
n_threads : int or None, default=None
    Largest number of threads; None uses the limit of `fastmlp.runtime`. A limit given
    here applies to the whole process while a method runs. Fits that run at the same
    time in several Python threads, such as joblib's, share these threads.
progress : bool or None, default=False
    Whether to show progress on standard error; None shows it only in a terminal
    or notebook."""

_ATTRIBUTES = """\
loss_ : float
    Loss of the last epoch, including the penalty.
best_loss_ : float or None
    Smallest loss of an epoch; None with early stopping. The attribute exists only for
    solvers that take batches.
loss_curve_ : list of float
    Loss of each epoch (for 'lbfgs', after each iteration).
validation_loss_curve_ : list of float
    Losses on held-out data, without penalty; empty if there are no held-out data.
validation_scores_ : list of float or None
    Scores on held-out data (%(score)s); None without early stopping.
best_validation_score_ : float or None
    Best of ``validation_scores_``; None without early stopping. Without early stopping,
    solvers that take no batches have neither of these attributes.
t_ : int
    Number of samples seen in training, counting repeats.
coefs_ : list of ndarray of shape (n_in, n_out)
    Weights of the layers, as views of the network's weights. Changing the arrays in
    place, or putting other arrays into the list, changes the model.
intercepts_ : list of ndarray of shape (n_out,)
    Biases of the layers, also views.
n_features_in_ : int
    Number of features.
feature_names_in_ : ndarray of shape (n_features,)
    Names of the features, if all were strings.
n_iter_ : int
    Number of epochs in the last fit.
n_layers_ : int
    Number of layers, including the input.
n_outputs_ : int
    Number of outputs of the network.
out_activation_ : str
    Activation that turns outputs into predictions: %(activation)s.
mlp_ : fastmlp.MLP
    The network, for saving, exporting and derivatives. Its outputs are the values
    before ``out_activation_`` is applied%(inside)s. ``mlp_.history`` is the history of
    the last fit: losses, held-out scores and times by epoch.
callbacks_ : list of Callback
    The callbacks that the last fit used: copies of fastmlp's, or your own objects."""

_NOTES = """\
- Results have the same bits with any number of threads and any instruction set, except
  for SciPy's part of the computation in 'lbfgs'.
- Predictions are computed in the precision of the weights, whatever the dtype of X.
- Negative sample weights are rejected. Weights whose largest is above 2^100 or below
  2^-100 are divided by the largest.
- A ``Pipeline`` or ``TransformedTargetRegressor`` does not transform the contents of
  ``eval_set``. With scikit-learn's metadata routing enabled, a pipeline made by
  ``Pipeline(steps, transform_input=["X_val"])`` transforms the argument ``X_val`` for a
  last step that has called ``set_fit_request(X_val=True, y_val=True)``. Pass held-out
  targets to a ``TransformedTargetRegressor`` already transformed, or let
  ``early_stopping`` hold out a part of the training data. A warning tells if held-out
  numbers are on quite another scale than the training data.
- If a fit fails, the estimator is as before. Only the weights remain those of the last
  good step if `partial_fit` fails during the training.
- A batch whose samples all have weight 0 is skipped, whereas scikit-learn raises
  ZeroDivisionError.
- A file that `fastmlp.Checkpoint` has written in a fit holds the network, which
  `fastmlp.load` reads. To resume an interrupted training exactly, train a
  `fastmlp.MLP`.
- ``warm_start`` raises an error if layer widths have changed; other changes of the
  architecture take effect, and the weights are kept.
- ``hasattr(…, "partial_fit")`` is False for all solvers that take no batches.
- A loss that is not finite ends the training with the ValueError that scikit-learn
  raises for weights that are not finite. But if early stopping has kept weights, these
  are restored, with a ConvergenceWarning.
- 'lbfgs' computes in float64 even if the weights are float32.
- A sparse X stays sparse, except for `fastmlp.LevenbergMarquardt`, which takes a dense
  array, and for ``compute_dtype="bfloat16"``, which refuses it. The results are those
  of a dense X."""


def documented(**attributes: str) -> Callable[[type[T]], type[T]]:
    """Return a class decorator that inserts the shared parts into a docstring.

    The docstring marks where each part goes with ``%(parameters)s`` and so on. The
    keyword arguments are descriptions of attributes whose meaning differs from one
    estimator to another.
    """

    def document(cls: type[T]) -> type[T]:
        if cls.__doc__ is not None:  # python -OO removes docstrings
            parts = {
                "parameters": _PARAMETERS,
                "more_parameters": _MORE_PARAMETERS,
                "attributes": _ATTRIBUTES % attributes,
                "notes": _NOTES,
            }
            # The docstring already indents the first line of a part.
            cls.__doc__ %= {k: indent(v, "    ").lstrip() for k, v in parts.items()}
        return cls

    return document
