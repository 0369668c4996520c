"""Threads, instruction sets, the configuration and the self-check."""

import ast
import os
import re
import signal
import subprocess
import sys

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import __main__, _core, runtime
from fastmlp.runtime import _selfcheck as selfcheck
from helpers import assert_threaded, training_flops


@pytest.fixture(autouse=True)
def _as_before():
    yield
    fm.set_num_threads(0)


def test_threads_can_be_set():
    automatic = fm.get_num_threads()
    assert automatic >= 1
    fm.set_num_threads(1)
    assert fm.get_num_threads() == 1
    fm.set_num_threads(np.int64(3))
    assert fm.get_num_threads() == 3
    fm.set_num_threads(0)
    assert fm.get_num_threads() == automatic


def test_threads_in_a_block():
    automatic = fm.get_num_threads()
    with fm.threads(3):
        assert fm.get_num_threads() == 3
        with fm.threads(2):
            assert fm.get_num_threads() == 2
        with fm.threads(0):
            assert fm.get_num_threads() == automatic
        assert fm.get_num_threads() == 3
    assert fm.get_num_threads() == automatic

    with pytest.raises(ZeroDivisionError), fm.threads(3):
        raise ZeroDivisionError
    assert fm.get_num_threads() == automatic
    # The earlier setting is automatic again, not the number of threads that it gave.
    fm.set_num_threads(5)
    with fm.threads(1):
        pass
    assert fm.get_num_threads() == 5


@pytest.mark.parametrize(
    ("n", "error"),
    [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("2", TypeError)],
)
def test_bad_threads(n, error):
    before = fm.get_num_threads()
    with pytest.raises(error, match=r"^n must be"):
        fm.set_num_threads(n)
    with pytest.raises(error, match=r"^n must be"), fm.threads(n):
        pass
    assert fm.get_num_threads() == before


def test_isas():
    isas = fm.available_isas()
    assert isas[0] == "scalar"
    assert len(set(isas)) == len(isas)
    assert fm.isa() in isas
    before = fm.isa()
    for name in isas:
        with fm.use_isa(name):
            assert fm.isa() == name
            with fm.use_isa("scalar"):
                assert fm.isa() == "scalar"
            assert fm.isa() == name
    with pytest.raises(ZeroDivisionError), fm.use_isa("scalar"):
        raise ZeroDivisionError
    assert fm.isa() == before


@pytest.mark.parametrize("name", ["avx1024", "", "SCALAR"])
def test_an_isa_that_is_not_available(name):
    before = fm.isa()
    with (
        pytest.raises(ValueError, match=r"^name must be one of scalar"),
        fm.use_isa(name),
    ):
        pass
    with pytest.raises(TypeError, match=r"^name must be a name"), fm.use_isa(2):
        pass
    assert fm.isa() == before


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PATH": "", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_names_the_isa():
    code = "import fastmlp; print(fastmlp.isa())"
    for name in fm.available_isas():
        assert python(code, FASTMLP_ISA=name).stdout == f"{name}\n"
    bad = python(code, FASTMLP_ISA="avx1024")
    assert bad.returncode != 0
    assert "avx1024" in bad.stderr


PRINT_CACHES = "from fastmlp import _core; print(_core.caches())"


def test_the_environment_replaces_caches():
    text = python(
        PRINT_CACHES, FASTMLP_L1D="48K/12/2", FASTMLP_L2="3M/16/4", FASTMLP_L3="0/8/1"
    ).stdout
    expected = {"l1d": (49152, 12, 2), "l2": (3 << 20, 16, 4), "l3": (0, 8, 1)}
    assert text == f"{expected | {'l3_is_near': False}}\n"
    for near in (False, True):
        text = python(PRINT_CACHES, FASTMLP_L3="8M", FASTMLP_NEAR_L3=str(int(near)))
        assert ast.literal_eval(text.stdout)["l3_is_near"] == near
    detected = ast.literal_eval(python(PRINT_CACHES).stdout)
    text = python(PRINT_CACHES, FASTMLP_L1D="1500", FASTMLP_L2="2097153").stdout
    changed = {
        "l1d": (1500, *detected["l1d"][1:]),
        "l2": (2097153, *detected["l2"][1:]),
    }
    assert ast.literal_eval(text) == detected | changed
    assert ast.literal_eval(python(PRINT_CACHES, FASTMLP_L1D="").stdout) == detected


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "100",
        "48k",
        "48KB",
        "K",
        "48K/",
        "48K/0",
        "4K/8/1/1",
        "9" * 30,
        "9" * 20 + "K",
    ],
)
def test_an_impossible_cache(text):
    bad = python("import fastmlp", FASTMLP_L1D=text)
    assert bad.returncode != 0
    message = f"FASTMLP_L1D must be the size of a cache of at least 1K.*, got '{text}'"
    assert re.search(message, bad.stderr)


def test_an_impossible_nearness():
    bad = python("import fastmlp", FASTMLP_NEAR_L3="yes")
    assert bad.returncode != 0
    assert "FASTMLP_NEAR_L3 must be 0 or 1, got 'yes'" in bad.stderr


def test_caches_of_this_machine():
    """Level 1 is assumed if it cannot be found; higher levels are larger or absent."""
    l1d, l2, l3, near = ast.literal_eval(python(PRINT_CACHES).stdout).values()
    assert near is False or l3[0] > 0
    assert 4096 <= l1d[0] <= 1 << 20
    assert all(size == 0 or size >= l1d[0] for size, _, _ in (l2, l3))
    assert all(ways >= 1 and cpus >= 1 for _, ways, cpus in (l1d, l2, l3))


def test_build_info_is_a_copy():
    info = fm.build_info()
    assert info["version"] == fm.__version__
    assert set(fm.available_isas()) <= set(info["isas"])
    info.clear()
    assert fm.build_info()["version"] == fm.__version__


def test_show_config(capsys):
    fm.show_config()
    out = capsys.readouterr().out
    for value in (fm.__version__, np.__version__, fm.isa(), *fm.available_isas()):
        assert value in out
    fields = {line[:16].strip() for line in out.splitlines()}
    assert {"fastmlp", "numpy", "compiler", "flags", "isa in use", "threads"} <= fields
    assert {"l1d cache", "l2 cache", "l3 cache"} <= fields


# The self-check -----------------------------------------------------------------------


def test_selfcheck_passes():
    lines = []
    before = (fm.isa(), fm.get_num_threads())
    assert selfcheck.run(lines.append)
    assert (fm.isa(), fm.get_num_threads()) == before
    wanted = [
        (name, dtype) for name in fm.available_isas() for dtype in selfcheck.DTYPES
    ]
    assert [tuple(line.split()[:2]) for line in lines] == wanted
    assert all(line.split()[2] == "ok" for line in lines)


def test_selfcheck_trains_in_threads():
    large, small = selfcheck.BATCH_SIZES
    for n in selfcheck.THREADS:
        with fm.threads(n):
            assert_threaded(training_flops(selfcheck.WIDTHS, large), large)
            flops = training_flops(selfcheck.WIDTHS, small)
            assert _core.threads_for_work(flops, small) == 1


def test_main_prints_and_passes(capsys):
    assert __main__.main() == 0
    out = capsys.readouterr().out
    assert fm.__version__ in out
    wanted = len(selfcheck.DTYPES) * len(fm.available_isas())
    assert out.count("ok  ") == wanted


def slightly_wrong(name):
    """The kernel with an error of a thousandth in one element."""
    kernel = getattr(_core.kernels, name)

    def wrong(out, *args):
        kernel(out, *args)
        out.flat[-1] *= 1.001

    return wrong


@pytest.mark.parametrize(
    "name",
    [
        "gemm_nn",
        "gemm_nt",
        "gemm_tn",
        "column_sum",
        "dense_forward",
        "activation_forward",
        "activation_backward",
        "loss_rows",
        "sgd_step",
        "adagrad_step",
        "rmsprop_step",
        "adam_step",
        "adamax_step",
        "nadam_step",
        "radam_step",
        "adadelta_step",
        "rprop_step",
        "asgd_step",
        "lion_step",
        "adabelief_step",
        "schedule_free_step",
        "prodigy_step",
        "prodigy_sums",
    ],
)
def test_selfcheck_finds_a_wrong_kernel(name, monkeypatch, capsys):
    monkeypatch.setattr(_core.kernels, name, slightly_wrong(name))
    monkeypatch.setattr(selfcheck, "available_isas", lambda: ("scalar",))
    monkeypatch.setattr(selfcheck, "DTYPES", ("float64",))
    assert __main__.main() == 1
    out = capsys.readouterr().out
    assert f"FAILED: {name}" in out
    assert "is off by" in out


def test_selfcheck_finds_different_bits(monkeypatch):
    digests = iter(["a", "a", "a", "b", "a", "a"])
    monkeypatch.setattr(selfcheck, "_trained_hash", lambda dtype, n: next(digests))
    monkeypatch.setattr(selfcheck, "_wrong_kernels", lambda dtype: iter(()))
    monkeypatch.setattr(selfcheck, "available_isas", lambda: ("scalar", "scalar"))
    monkeypatch.setattr(selfcheck, "DTYPES", ("float32",))
    lines = []
    assert not selfcheck.run(lines.append)
    assert "ok  a" in lines[0]
    assert "FAILED: training: bits differ" in lines[1]


def test_blocks_of_several_threads_may_end_in_any_order():
    automatic = fm.get_num_threads()
    first, second = fm.threads(3), fm.threads(5)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert fm.get_num_threads() == 5
    second.__exit__(None, None, None)
    assert fm.get_num_threads() == automatic


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_the_parents_lock():
    with runtime._asking:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # kills a child that hangs
            with fm.threads(1):
                os._exit(fm.get_num_threads())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
