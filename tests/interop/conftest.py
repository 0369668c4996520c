"""Fixtures for the tests of files and of PyTorch."""

import fastmlp as fm
import pytest
from file_cases import parts_of_a_training, run, trained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of a checkpoint that was written at Ctrl-C within an epoch."""
    path = tmp_path_factory.mktemp("files") / "run.safetensors"
    mlp, opt, stop = parts_of_a_training()

    def interrupt(mlp, history, step, loss):
        if len(history) == 3 and step == 1:
            raise KeyboardInterrupt

    hook = fm.LambdaCallback(on_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(mlp, opt, stop, fm.Checkpoint(path, on_interrupt=True), 9, hook)
    return path.read_bytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The bytes of a model file."""
    path = tmp_path_factory.mktemp("files") / "model.safetensors"
    trained([2, 3, fm.BatchNorm(), fm.Residual([fm.Dense(3, bias=False)]), 1]).save(
        path
    )
    return path.read_bytes()


@pytest.fixture
def quiet_torch():
    """PyTorch with one thread, which is enough, and a fixed seed."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
