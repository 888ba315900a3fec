"""Which backends are tested, and which may not be skipped."""

import os

import numpy as np
import pytest
from hypothesis import settings

import fastalign
from fastalign.backends import cython_cpu

REQUIRED = frozenset(filter(None, os.environ.get("FASTALIGN_REQUIRE", "").split(",")))
HOST_BACKENDS = ("numpy", "cython", "numba")
COMPILED = ("cython", "numba")

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=40, database=None)
settings.register_profile("here", deadline=None, max_examples=40, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure(config):
    """Without the extension what is tested falls back, and says so."""
    if fastalign.available_backends()["cython"] is not None:
        config.addinivalue_line("filterwarnings", "ignore:fastalign computes with:RuntimeWarning")


def need(name, reason):
    """Skip with the reason, or fail where FASTALIGN_REQUIRE names what is missing."""
    if reason is None:
        return
    if name in REQUIRED:
        pytest.fail(f"FASTALIGN_REQUIRE names {name}, which is unavailable: {reason}")
    pytest.skip(f"{name}: {reason}", allow_module_level=True)


def usable(name):
    need(name, fastalign.available_backends()[name])
    return name


def same(got, want):
    """Fields that are absent in both, or arrays of one dtype and shape with the same bits."""
    for x, y in zip(got, want, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype and x.shape == y.shape
            np.testing.assert_array_equal(x, y)


@pytest.fixture(params=HOST_BACKENDS)
def backend(request):
    return usable(request.param)


@pytest.fixture(params=["numpy", "numba", *(f"cython/{isa}" for isa in cython_cpu.ISAS)])
def walker(request, monkeypatch):
    """A backend; of the extension every build."""
    backend, _, isa = request.param.partition("/")
    usable(backend)
    if isa:
        try:
            module = cython_cpu.load(isa)
        except ImportError as error:
            pytest.skip(str(error))
        monkeypatch.setattr(cython_cpu, "core", lambda: module)
    return backend


@pytest.fixture(params=COMPILED)
def compiled(request):
    return usable(request.param)


@pytest.fixture
def threads():
    """Set the number of threads; put the former choice back."""
    yield fastalign.set_num_threads
    fastalign.set_num_threads(None)


@pytest.fixture
def divisions(monkeypatch):
    """(items, threads) of the loops that more than one thread was asked to walk."""
    from fastalign import threads as pool

    seen, parts = [], pool.parts

    def asked(n, grain, work):
        count = parts(n, grain, work)
        if count > 1:
            seen.append((n, count))
        return count

    monkeypatch.setattr(pool, "parts", asked)
    return seen
