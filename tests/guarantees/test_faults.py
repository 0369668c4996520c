"""Failures that are injected: of allocations of memory, and of system calls of save.

By default a part of the allocations fails. The environment variable
FASTMLP_TEST_ALL_FAULTS=1 lets each one fail, those of the C library included.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastmlp as fm
import pytest
from helpers import importing

ALL = bool(os.environ.get("FASTMLP_TEST_ALL_FAULTS"))

SHIM = r"""
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <new>

extern "C" {
void *__libc_malloc(std::size_t);
void *__libc_calloc(std::size_t, std::size_t);
void *__libc_realloc(void *, std::size_t);
void *__libc_memalign(std::size_t, std::size_t);
void free(void *);
}

namespace {
std::atomic<long> left{-1}, count{0};
std::atomic<int> deep{0};

bool fails() {
  ++count;
  return left.load() >= 0 && left.fetch_sub(1) == 0;
}

void *allocate(std::size_t size, std::size_t alignment = 16) {
  return fails() ? nullptr : __libc_memalign(alignment, size ? size : 1);
}

void *or_throw(void *memory) {
  if (!memory) throw std::bad_alloc();
  return memory;
}

bool refuses() {
  if (!deep || !fails()) return false;
  errno = ENOMEM;
  return true;
}
}  // namespace

extern "C" {
// The allocation after the next n ones fails; -1: none.
void fault_arm(long n) {
  left = n;
  count = 0;
}
long fault_count() { return count; }
// Whether the C library's functions fail as well.
void fault_deep(int on) { deep = on; }

void *malloc(std::size_t n) { return refuses() ? nullptr : __libc_malloc(n); }
void *calloc(std::size_t n, std::size_t size) {
  return refuses() ? nullptr : __libc_calloc(n, size);
}
void *realloc(void *old, std::size_t n) {
  return refuses() ? nullptr : __libc_realloc(old, n);
}
}

using Size = std::size_t;
using Align = std::align_val_t;
void *operator new(Size n) { return or_throw(allocate(n)); }
void *operator new[](Size n) { return or_throw(allocate(n)); }
void *operator new(Size n, Align a) { return or_throw(allocate(n, Size(a))); }
void *operator new[](Size n, Align a) { return or_throw(allocate(n, Size(a))); }
void *operator new(Size n, const std::nothrow_t &) noexcept { return allocate(n); }
void *operator new[](Size n, const std::nothrow_t &) noexcept { return allocate(n); }
void operator delete(void *p) noexcept { free(p); }
void operator delete[](void *p) noexcept { free(p); }
void operator delete(void *p, Size) noexcept { free(p); }
void operator delete[](void *p, Size) noexcept { free(p); }
void operator delete(void *p, Align) noexcept { free(p); }
void operator delete[](void *p, Align) noexcept { free(p); }
void operator delete(void *p, Size, Align) noexcept { free(p); }
void operator delete[](void *p, Size, Align) noexcept { free(p); }
"""

OPERATIONS = Path(__file__).with_name("fault_operations.py")


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("the test needs Linux and a C++ compiler")
    folder = tmp_path_factory.mktemp("shim")
    source, library = folder / "shim.cpp", folder / "shim.so"
    source.write_text(SHIM)
    command = [compiler, "-std=c++17", "-shared", "-fPIC", "-o", library, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("the C library is not glibc")
    return str(library)


def swept(shim, stride, *operations, **variables):
    """Return the numbers of allocations and failures, by operation."""
    done = subprocess.run(
        [sys.executable, OPERATIONS, str(stride), *operations],
        env=importing(__file__, LD_PRELOAD=shim, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return {name: (int(total), int(failures)) for name, total, failures in lines}


def test_failures_of_allocations_are_memory_errors(shim):
    """And objects can be used afterwards, with the same results."""
    found = swept(shim, 1 if ALL else 5)
    assert len(found) > 40
    assert sum(total for total, _ in found.values()) > 1500
    # A single chunk of workspace may be done without.
    for name, (total, failures) in found.items():
        assert failures >= total // (1 if ALL else 5) - 2, name


@pytest.mark.parametrize("name", ["save", "load", "Checkpoint", "Checkpoint.load"])
def test_failures_of_the_c_library_in_files(name, shim):
    found = swept(shim, 1 if ALL else 7, name, FAULTS_OF_C="1")
    total, failures = found[name]
    assert failures > total // (3 if ALL else 21)


@pytest.mark.skipif(not ALL, reason="it takes long: set FASTMLP_TEST_ALL_FAULTS=1")
def test_failures_of_the_c_library(shim):
    assert len(swept(shim, 1, FAULTS_OF_C="1")) > 40


# System calls -----------------------------------------------------------------------


class Failing:
    """Functions of `os` and files, of which one fails at its n-th call."""

    def __init__(self, monkeypatch, name, n, code):
        from fastmlp._formats import atomic_write

        self.calls, self.n, self.code = 0, n, code
        if name in ("write", "flush", "seek", "close"):
            real = atomic_write.open_file

            def opened(path, mode):
                return File(self, name, real(path, mode))

            monkeypatch.setattr(atomic_write, "open_file", opened)
            return
        holder, name = (atomic_write.fcntl, name) if name == "flock" else (os, name)
        real = getattr(holder, name)

        def call(*arguments, **options):
            self.count()
            return real(*arguments, **options)

        monkeypatch.setattr(holder, name, call)

    def count(self):
        self.calls += 1
        if self.calls == self.n:
            raise OSError(self.code, os.strerror(self.code))


class File:
    """A file that counts the calls of a method."""

    def __init__(self, failing, name, file):
        self._failing, self._method, self._file = failing, name, file

    def __getattr__(self, name):
        if name == self._method:
            if name == "close":  # a file is closed even if this fails
                self._file.close()
            self._failing.count()
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


CALLS = ("write", "flush", "seek", "close", "fsync", "replace", "chmod", "urandom")
CALLS += ("open", "listdir", "flock", "lstat", "stat")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("name", CALLS)
def test_failures_of_system_calls(name, code, tmp_path, monkeypatch):
    """Each leaves the old file, with an OSError, or the new one; and nothing else."""
    path = tmp_path / "a"
    old, new = fm.MLP([3, 40, 2], seed=1), fm.MLP([3, 40, 2], seed=2)
    new.save(path)
    wanted = path.read_bytes()
    old.save(path)
    before = path.read_bytes()
    for n in range(1, 100):
        path.write_bytes(before)
        with monkeypatch.context() as patch:
            failing = Failing(patch, name, n, code)
            caught = []
            try:
                new.save(path)
            except OSError as error:
                caught = [error.errno]
        # Python takes a folder that it cannot look at for missing.
        assert set(caught) <= {code, errno.ENOENT if name == "stat" else code}
        assert path.read_bytes() == (before if caught else wanted), n
        assert os.listdir(tmp_path) == ["a"], n
        if failing.calls < n:  # all calls have failed once
            break
    else:
        pytest.fail("99 failures were not enough")
    assert n > 1  # at least one call was there to fail
