"""What custom activations may do, and what other threads may do at the same time."""

import os
import subprocess
import sys
import textwrap
import threading

import fastmlp as fm
import numpy as np
import pytest

SECONDS = 30  # a result takes milliseconds; a deadlock never ends


def slope(z):
    return 1 - np.tanh(z) ** 2


def net(function, derivative=slope):
    layers = [2, fm.Dense(3), fm.Activation(function, derivative), 1]
    return fm.MLP(layers, seed=0)


X, Y = np.ones((4, 2), np.float32), np.zeros((4, 1), np.float32)


def run(script: str) -> str:
    """Return the output of a script that may wait until an activation is running."""
    frame = """
        import os, sys, threading, time
        import numpy as np
        import fastmlp as fm

        inside = threading.Event()

        def function(z):
            inside.set()
            time.sleep(0.05)  # lets other threads have Python's lock
            return np.tanh(z)

        layers = [2, fm.Dense(3), fm.Activation(function, lambda z: 1 - z * z), 1]
        mlp = fm.MLP(layers, seed=0)
        x, y = np.ones((4, 2), np.float32), np.zeros((4, 1), np.float32)
        opt = fm.SGD(0.01)

        def train():
            mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=4, batch_size=2)
    """
    code = textwrap.dedent(frame) + textwrap.dedent(script)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("work", ["train()", "mlp(x)"])
def test_fork_does_not_wait_for_an_activation(work: str) -> None:
    out = run(f"""
        thread = threading.Thread(target=lambda: {work})
        thread.start()
        inside.wait()
        pid = os.fork()
        if pid == 0:
            train()
            print("child", np.isfinite(mlp(x)).all(), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        thread.join()
        train()
        print("parent", np.isfinite(mlp(x)).all())
    """)
    assert out.split("\n")[:2] == ["child True", "parent True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("work", ["train()", "mlp(x)"])
def test_fork_inside_an_activation(work: str) -> None:
    """The child returns from the activation as well and continues."""
    out = run(f"""
        pids = []

        def function(z):
            if not pids:
                pids.append(os.fork())
            return np.tanh(z)

        layers[2] = fm.Activation(function, lambda z: 1 - z * z)
        mlp = fm.MLP(layers, seed=0)
        {work}
        train()
        fine = np.isfinite(mlp(x)).all()
        if pids == [0]:
            os._exit(0 if fine else 1)
        assert os.waitpid(pids[0], 0)[1] == 0
        print("parent", fine)
    """)
    assert out == "parent True\n"


def test_state_is_loaded_while_an_activation_runs() -> None:
    out = run("""
        thread = threading.Thread(target=train)
        thread.start()
        inside.wait()
        mlp.load_state_dict(mlp.state_dict())
        mlp.core.training_state = mlp.core.training_state
        thread.join()
        print("done")
    """)
    assert out == "done\n"


@pytest.mark.parametrize("outer", ["predict", "train_step"])
@pytest.mark.parametrize("inner", ["train_step", "optimizer", "forward"])
def test_an_activation_does_not_train_its_own_model(outer: str, inner: str) -> None:
    opt = fm.SGD(0.01)
    calls = {
        "predict": lambda: mlp(X),
        "train_step": lambda: mlp.train_step(X, Y, fm.MSE(), opt),
        "optimizer": lambda: setattr(opt, "momentum", 0.5),
        "forward": lambda: mlp.forward(X),
    }
    errors: list[Exception] = []

    def function(z):
        if not errors:
            try:
                calls[inner]()
            except RuntimeError as error:
                errors.append(error)
        return np.tanh(z)

    mlp = net(function)
    thread = threading.Thread(target=calls[outer], daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive()
    waits_for_itself = not (outer == "predict" and inner == "optimizer")
    assert len(errors) == waits_for_itself
    assert all("this thread is already using" in str(error) for error in errors)
    calls["train_step"]()


@pytest.mark.parametrize("result", ["words", object(), None, [1.0], 2.0])
def test_an_activation_must_return_numbers(result: object) -> None:
    mlp = net(lambda z: result)
    with pytest.raises(
        ValueError, match="the function of a custom activation must return"
    ):
        mlp(X)
    mlp = net(np.tanh, lambda z: result)
    with pytest.raises(
        ValueError, match="the derivative of a custom activation must return"
    ):
        mlp.train_step(X, Y, fm.MSE(), fm.SGD(0.01))


def test_complex_results_are_refused():
    mlp = fm.MLP([2, fm.Activation(lambda z: z + 1j, np.ones_like), 1], seed=0)
    with pytest.raises(
        ValueError, match=r"shape of its argument, \(6,\), got complex64"
    ):
        mlp(np.zeros((3, 2), np.float32))
