"""Operations for the tests of allocation failures; runs in a process with the shim.

Usage: python fault_operations.py STRIDE [NAME ...]

Each operation is run again and again, and each time another allocation of C++ fails. It
must then raise MemoryError or succeed, and afterwards, with enough memory, it must give
the same result as before; a result that is a function is called with enough memory.
The process prints the name and the numbers of allocations and failures.
"""

import copy
import ctypes
import gc
import os
import pickle
import sys
import tempfile

import fastmlp as fm
import numpy as np
from fastmlp import _core
from scipy import sparse

SHIM = ctypes.CDLL(None)
SHIM.fault_arm.argtypes = [ctypes.c_long]
SHIM.fault_count.restype = ctypes.c_long

# Whether malloc, calloc and realloc fail too, which Python and NumPy call.
DEEP = bool(os.environ.get("FAULTS_OF_C"))
# NumPy's reductions report a lack of memory for their buffers by a SystemError.
TOLERATED = (SystemError,) if DEEP else ()
SHIM.fault_deep(DEEP)
fm.set_num_threads(1)
rng = np.random.default_rng(0)
X = rng.standard_normal((40, 3)).astype(np.float32)
Y = rng.standard_normal((40, 2)).astype(np.float32)
LABELS = np.arange(40) % 2
# Made here, because SciPy crashes if an allocation fails meanwhile.
SPARSE_X = sparse.csr_array(X)
FOLDER = tempfile.mkdtemp()
LAYERS = [3, 8, fm.BatchNorm(), fm.Dropout(0.1), fm.Residual([8]), 2]
PLAIN = [3, fm.Dense(6, "tanh"), 2]


def model(layers=LAYERS, **options):
    return fm.MLP(layers, seed=0, **options)


def fitted(**options):
    mlp, opt = model(), fm.Adam(ema=0.9, clip_norm=1.0)
    how = {"loss": fm.MSE(), "optimizer": opt, "epochs": 2, "batch_size": 16}
    history = mlp.fit(X, Y, **{**how, **options})
    return mlp.params.tobytes(), history.loss


def path(name):
    return os.path.join(FOLDER, name)


KEPT = model()
SMOOTH = model(PLAIN, dtype="float64")
TRAINED, OPTIMIZER = model(), fm.Adam()
TRAINED.train_step(X, Y, fm.MSE(), OPTIMIZER)
PREDICTOR = KEPT.predictor(rows=40)
SOLVER = fm.LBFGS()
SMOOTH.copy().fit(X, Y, loss=fm.MSE(), optimizer=SOLVER, epochs=2)
CUSTOM = model([3, fm.Dense(4, "identity"), fm.Activation(np.tanh, np.cos), 2])
BUFFER = fm.rl.ReplayBuffer(50, 3, seed=0)
RELU = model([2, 4, 1])
KEPT.save(path("kept"))


def saved():
    KEPT.save(path("a"))
    return lambda: (fm.load(path("a")).params.tobytes(), sorted(os.listdir(FOLDER)))


def checkpointed():
    fitted(callbacks=[fm.EarlyStopping(), fm.Checkpoint(path("b"))])
    return lambda: (fm.load(path("b")).params.tobytes(), sorted(os.listdir(FOLDER)))


fitted(callbacks=[fm.EarlyStopping(), fm.Checkpoint(path("c"))])
saved()
checkpointed()


def resumed():
    mlp, opt = model(), fm.Adam(ema=0.9, clip_norm=1.0)
    fm.Checkpoint.load(path("c"), mlp, opt, [fm.EarlyStopping(), fm.Checkpoint("d")])
    return mlp.params.tobytes(), repr(opt.state_dict())


def minimized():
    return fm.LBFGS().minimize(lambda t: (float(t @ t), 2 * t), np.ones(5)).theta


def squares():
    def residuals(t):
        return t - 1, np.eye(len(t))

    return fm.LevenbergMarquardt().minimize(residuals, np.zeros(4)).theta


def replayed():
    buffer = fm.rl.ReplayBuffer(50, 3, seed=0)
    buffer.add(X[0], 1, 0.5, X[1], False)
    return [np.asarray(part).tolist() for part in buffer.sample(4)]


def stepped():
    mlp, opt = copy.deepcopy((TRAINED, OPTIMIZER))
    loss = mlp.train_step(X, Y, fm.MSE(), opt)
    return loss, mlp.params.tobytes()


def sparse_step():
    mlp = model()
    loss = mlp.train_step(SPARSE_X, Y, fm.MSE(), fm.SGD(0.1))
    return loss, mlp.params.tobytes()


def free_step():
    params, opt = np.ones(300), fm.RMSprop(momentum=0.5)
    for _ in range(2):
        opt.step([params], [np.ones(300)])
    return params


def loaded_optimizer():
    opt = fm.Adam()
    opt.load_state_dict(OPTIMIZER.state_dict())
    return repr(opt.state_dict())


def mixed():
    mlp = KEPT.copy()
    mlp.polyak_(TRAINED, 0.5)
    return mlp.params.tobytes()


def solved():
    mlp = model(PLAIN)
    opt = fm.LevenbergMarquardt()
    mlp.fit(X, Y, loss=fm.MSE(), optimizer=opt, epochs=2)
    return mlp.params.tobytes()


OPERATIONS = {
    "build": lambda: model().params.tobytes(),
    "build float64": lambda: model(dtype="float64").params.tobytes(),
    "operations": lambda: repr([op.name for op in KEPT.core.ops]),
    "loss": lambda: fm.CrossEntropy(label_smoothing=0.1)(Y, LABELS),
    "weighted loss": lambda: fm.CrossEntropy(class_weight=[1, 2])(Y, LABELS),
    "loss and gradient": lambda: fm.Huber().value_and_grad(Y, Y[::-1].copy())[1],
    "optimizer": lambda: repr(fm.SGD(0.1, momentum=0.9)),
    "solvers": lambda: repr((fm.LBFGS(), fm.LevenbergMarquardt())),
    "progress": lambda: _core.EpochProgress().steps,
    "predict": lambda: KEPT(X),
    "predict with a sparse input": lambda: KEPT(SPARSE_X),
    "train_step with a sparse input": sparse_step,
    "predict one row": lambda: KEPT(X[0]),
    "predict with another model": lambda: model(PLAIN)(X),
    "predictor": lambda: KEPT.predictor(rows=40)(X).copy(),
    "call a predictor": lambda: PREDICTOR(X).copy(),
    "custom activation": lambda: CUSTOM(X),
    "forward and backward": lambda: (SMOOTH.forward(X), SMOOTH.backward(Y))[1][1],
    "vjp": lambda: KEPT.vjp(X, Y)[2],
    "value and gradient": lambda: KEPT.value_and_grad(X, Y, fm.MSE())[1],
    "per-sample gradients": lambda: SMOOTH.per_sample_grads(X, Y, fm.MSE()),
    "jacobian": lambda: SMOOTH.jacobian(X),
    "param_jacobian": lambda: SMOOTH.param_jacobian(X),
    "jvp": lambda: SMOOTH.jvp(X, X)[1],
    "hessian": lambda: SMOOTH.hessian(X, output=0),
    "train_step": stepped,
    "step of free arrays": free_step,
    "fit": fitted,
    "fit with a custom loss": lambda: fitted(
        loss=fm.CustomLoss(lambda p, t: (float(np.mean((p - t) ** 2)), (p - t) / 40))
    ),
    "fit with validation": lambda: fitted(validation_data=(X, Y), metrics=["mae"]),
    "evaluate": lambda: KEPT.evaluate(X, Y, fm.MSE()),
    "solver": solved,
    "LBFGS.minimize": minimized,
    "LevenbergMarquardt.minimize": squares,
    "state of a solver": lambda: repr(copy.deepcopy(SOLVER).state_dict()),
    "state of an optimizer": lambda: repr(OPTIMIZER.state_dict()),
    "load an optimizer's state": loaded_optimizer,
    "copy": lambda: KEPT.copy().params.tobytes(),
    "pickle": lambda: pickle.loads(pickle.dumps(TRAINED)).params.tobytes(),
    "polyak": mixed,
    "replay buffer": replayed,
    "save": saved,
    "load": lambda: fm.load(path("kept")).params.tobytes(),
    "Checkpoint": checkpointed,
    "Checkpoint.load": resumed,
    "to_c": lambda: KEPT.copy().to_c(path("header.h")),
    "linear regions": lambda: repr(fm.regions.count_regions(RELU, [0, 0], [1, 1])),
}


def same(a, b):
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def finished(result):
    return result() if callable(result) else result


def sweep(name, stride):
    run = OPERATIONS[name]
    finished(run())  # import what is imported late, and fill caches
    wanted = finished(run())
    gc.collect()
    gc.disable()  # objects freed by chance would not change the number of allocations
    SHIM.fault_arm(-1)
    run()
    total = SHIM.fault_count()
    failures = 0
    for n in range(0, total, stride):
        print(f"{name}: {n} of {total}", file=sys.stderr, flush=True)
        SHIM.fault_arm(n)
        try:
            run()
        except (MemoryError, *TOLERATED):
            failures += 1
        finally:
            SHIM.fault_arm(-1)
        found = finished(run())
        assert same(found, wanted), f"{name}: another result after failure {n}"
    gc.enable()
    print(name, total, failures, sep="\t")


if __name__ == "__main__":
    for chosen in sys.argv[2:] or OPERATIONS:
        sweep(chosen, int(sys.argv[1]))
