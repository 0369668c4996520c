"""What happens if the system refuses to create threads."""

import os
import shutil
import subprocess
import sys

import pytest
from fastmlp import _core

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static atomic_int alive, refused;

struct call { void *(*f)(void *); void *argument; };

static void *counted(void *given) {
  struct call call = *(struct call *)given;
  free(given);
  void *result = call.f(call.argument);
  atomic_fetch_sub(&alive, 1);
  return result;
}

int refusals(void) { return refused; }

/* Refuses threads from a number of living threads on. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*f)(void *),
                   void *argument) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
      dlsym(RTLD_NEXT, "pthread_create");
  if (atomic_fetch_add(&alive, 1) >= atoi(getenv("THREADS_ALLOWED"))) {
    atomic_fetch_sub(&alive, 1);
    atomic_fetch_add(&refused, 1);
    return EAGAIN;
  }
  struct call *call = malloc(sizeof *call);
  call->f = f;
  call->argument = argument;
  return real(thread, attr, counted, call);
}
"""

SCRIPT = """
import ctypes, threading, time
import numpy as np
import fastmlp as fm

fm.set_num_threads(8)
x = np.random.default_rng(0).standard_normal((512, 64)).astype("f")

def trained(optimizer):
    mlp = fm.MLP([64, 512, 512, 8], seed=0)
    how = {"loss": fm.MSE(), "epochs": 2, "batch_size": 256}
    mlp.fit(x, x[:, :8], optimizer=optimizer, **how)
    mlp.jacobian(x[:32])
    return mlp.params.tobytes() + mlp(x).tobytes()

found = [trained(fm.Adam()), trained(fm.SGD(0.1))]
time.sleep(1.1)  # the system is asked again
assert [trained(fm.Adam()), trained(fm.SGD(0.1))] == found

other = []
def in_another_thread():
    other.append(trained(fm.Adam()))
try:
    thread = threading.Thread(target=in_another_thread)
    thread.start()
except RuntimeError:  # Python cannot create it either
    in_another_thread()
else:
    thread.join()
assert other == found[:1]
with fm.threads(1):
    assert [trained(fm.Adam()), trained(fm.SGD(0.1))] == found
assert fm.get_num_threads() == 8
refusals = getattr(ctypes.CDLL(None), "refusals", lambda: 0)()
print("all equal", refusals)
"""


# NumPy's OpenBLAS would complain about threads that it cannot create.
ENVIRONMENT = {"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "1"}


def run(script=SCRIPT, **variables):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:2] == ["all", "equal"]
    return int(words[2])


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the test needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("shim")
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-o", library, source, "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    return str(library)


needs_openmp = pytest.mark.skipif(
    not _core.build_info()["openmp"], reason="there are no teams without OpenMP"
)


@needs_openmp
@pytest.mark.parametrize("allowed", [0, 1, 2, 5, 100])
def test_fewer_threads_are_used(allowed, shim):
    """Before, OpenMP's runtime ended the process."""
    refused = run(LD_PRELOAD=shim, THREADS_ALLOWED=str(allowed))
    assert (refused > 0) == (allowed < 7)


# Becomes a user without other processes, who may have few threads.
LIMIT = """
with fm.threads(1):
    alone = trained(fm.Adam())  # imports all modules that are needed
import os, resource
resource.setrlimit(resource.RLIMIT_NPROC, (4, 4))
os.setuid(54321)
"""


@needs_openmp
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="only root can become a user without other processes",
)
def test_a_limit_of_the_system():
    head, tail = SCRIPT.split("found = ")
    run(f"{head}{LIMIT}found = {tail}")
