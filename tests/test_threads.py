"""Many callers, forks, workers of others, and what the environment says."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import usable

import fastalign
from fastalign import dispatch
from fastalign import threads as pool


def work(backend="cython"):
    """Large enough to be divided among threads."""
    rng = np.random.default_rng(5)
    logits, tokens = rng.standard_normal((96, 8000), np.float32), rng.integers(0, 8000, 96)
    a, b, c = rng.standard_normal((3, 300_000))
    return (
        fastalign.token_log_probs(logits, tokens, backend=backend).logp,
        fastalign.policy_loss(a, b, c, backend=backend).grad_log_probs,
        np.array([fastalign.policy_loss(a, b, c, backend=backend).loss]),
    )


def same(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_work_is_divided(compiled, threads, divisions):
    threads(1)
    want = work(compiled)
    assert not divisions
    threads(3)
    same(work(compiled), want)
    assert divisions and {count for _, count in divisions} == {3}


# For a process of its own: the extension's threads as the system lists them, and a call large enough for them.
OURS = (
    "import os, signal, threading, numpy as np, fastalign\n"
    "from pathlib import Path\n"
    "def ours():\n"
    "    return [p for p in Path('/proc/self/task').glob('*') if (p / 'comm').read_text() == 'fastalign\\n']\n"
    "def call():\n"
    "    fastalign.token_log_probs(np.zeros((100, 9000), np.float32), np.zeros(100, int))\n"
)
listed = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads are listed under /proc")


@listed
def test_the_extension_has_threads_of_its_own_once_they_are_needed():
    """Named in the system's lists, as many as were asked for at most, and none for Python to wait for."""
    usable("cython")
    code = OURS + (
        "for count in (1, 3, 2):\n"
        "    fastalign.set_num_threads(count)\n"
        "    call()\n"
        "    print(count, len(ours()), threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["1 0 1", "3 2 1", "2 2 1"]


@listed
def test_the_extensions_threads_stay_on_the_callers_processors_and_take_signals_of_faults_alone():
    usable("cython")
    code = OURS + (
        "def held():\n"
        "    before = os.sched_getaffinity(0)\n"
        "    call()\n"
        "    assert os.sched_getaffinity(0) == before\n"
        "    assert len(ours()) == 2 and all(os.sched_getaffinity(int(p.name)) <= before for p in ours())\n"
        "fastalign.set_num_threads(3)\n"
        "held()\n"
        "for processor in sorted(os.sched_getaffinity(0))[:2]:\n"
        "    os.sched_setaffinity(0, {processor})\n"
        "    held()\n"
        "for p in ours():\n"
        "    blocked = int((p / 'status').read_text().split('SigBlk:')[1].split()[0], 16)\n"
        "    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPROF):\n"
        "        assert blocked >> s - 1 & 1\n"
        "    for s in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):\n"
        "        assert not blocked >> s - 1 & 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_threads_of_its_own_the_extension_is_called_from_pythons(threads, monkeypatch):
    usable("cython")
    from fastalign.backends import cython_cpu

    threads(1)
    want = work()
    given = *np.random.default_rng(8).standard_normal((2, 1000, 1000)), np.zeros((1000, 1000), bool)
    scanned = fastalign.gae(*given, backend="cython")
    rows = given[0].astype(np.float32), np.arange(1000), given[1][0], given[1][1]
    fused = fastalign.policy_loss_from_logits(*rows, backend="cython").grad_logits
    threads(3)
    monkeypatch.setattr(cython_cpu.core(), "shares", lambda: False)
    monkeypatch.setattr(dispatch, "_engine", dispatch._engine.__wrapped__)
    counts, run = [], pool.run
    monkeypatch.setattr(pool, "run", lambda body, n, grain, count: (counts.append(count), run(body, n, grain, count)))
    same(work(), want)
    same(fastalign.gae(*given, backend="cython"), scanned)
    same([fastalign.policy_loss_from_logits(*rows, backend="cython").grad_logits], [fused])
    assert len(counts) == 5 and set(counts) <= {2, 3}


def test_concurrent_callers(compiled, threads):
    threads(2)
    want = work(compiled)
    with ThreadPoolExecutor(8) as callers:
        for got in callers.map(lambda _: work(compiled), range(16)):
            same(got, want)


def test_callers_in_other_threads_stay_serial(threads):
    """There dask, joblib or a server already run in parallel."""
    threads(4)
    counts = []
    caller = threading.Thread(target=lambda: counts.append(pool.parts(100, 1, 10**9)))
    caller.start()
    caller.join()
    assert counts == [1] and pool.parts(100, 1, 10**9) == 4


def _in_child(queue):
    queue.put([x.tobytes() for x in work()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_use_after_fork(threads):
    """The pool's threads do not exist in the child, which must not wait for them."""
    usable("cython")
    threads(2)
    want = [x.tobytes() for x in work()]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == want
    finally:
        child.join(10)
        child.kill()
    assert [x.tobytes() for x in work()] == want


def test_an_error_in_a_part_is_raised_after_all_parts_ended(threads):
    threads(3)
    ended = []

    def body(a, b):
        if a == 0:
            raise RuntimeError("part 0")
        ended.append((a, b))

    with pytest.raises(RuntimeError, match="part 0"):
        pool.run(body, 30, 1, 3)
    assert sorted(ended) == [(10, 20), (20, 30)]


@pytest.mark.parametrize("n, grain, count", [(1, 1, 2), (10, 4, 3), (4097, 4096, 2), (100, 7, 5)])
def test_parts_cover_everything_once_and_are_cut_at_the_grain(threads, n, grain, count):
    threads(count)
    found = []
    pool.run(lambda a, b: found.append((a, b)), n, grain, count)
    found = sorted(pair for pair in found if pair[0] < pair[1])
    assert found[0][0] == 0 and found[-1][1] == n
    for (_, end), (start, _) in zip(found, found[1:], strict=False):
        assert end == start and start % grain == 0


def test_set_num_threads_wins_and_gives_back(threads, monkeypatch):
    monkeypatch.setenv("FASTALIGN_NUM_THREADS", "5")
    assert fastalign.get_num_threads() == 5
    assert pool.thread_count_and_source() == (5, "FASTALIGN_NUM_THREADS")
    threads(3)
    assert pool.thread_count_and_source() == (3, "set_num_threads")
    threads(None)
    monkeypatch.delenv("FASTALIGN_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # a list, which is not ours to judge
    assert pool.thread_count_and_source()[1] in ("CPU affinity", "CPU count")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert pool.thread_count_and_source() == (2, "OMP_NUM_THREADS")


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("FASTALIGN_NUM_THREADS", "many", "expected a positive integer"),
        ("FASTALIGN_NUM_THREADS", "0", "expected a positive integer"),
        ("FASTALIGN_NUM_THREADS", "²", "expected a positive integer"),
        ("FASTALIGN_NUMBA_CACHE", "yes", "expected 0 or 1"),
        ("FASTALIGN_ISA", "sse9", "expected one of baseline, avx2, avx512"),
        ("FASTALIGN_BACKEND", "tpu", "expected one of 'cython', 'numba', 'numpy', 'cuda'"),
    ],
)
def test_an_invalid_variable_is_refused_at_import(name, value, expected):
    done = subprocess.run(
        [sys.executable, "-c", "import fastalign"], env={**os.environ, name: value}, capture_output=True, text=True
    )
    assert done.returncode == 1 and f"ValueError: {name} is {value!r}; {expected}" in done.stderr


def test_an_instruction_set_that_the_processor_lacks_is_refused(monkeypatch):
    from fastalign.backends import cython_cpu

    monkeypatch.setenv("FASTALIGN_ISA", "avx512")
    monkeypatch.setattr(cython_cpu, "import_module", lambda name: type("Cpu", (), {"supports": lambda isa: False}))
    with pytest.raises(ValueError, match="'avx512', which this processor does not run"):
        cython_cpu.check_environment()


def test_the_variable_chooses_the_backend(monkeypatch):
    usable("cython")
    monkeypatch.setenv("FASTALIGN_BACKEND", "numpy")
    from fastalign.dispatch import choose

    assert choose(None).name == "numpy" and choose("cython").name == "cython"
    monkeypatch.setenv("FASTALIGN_BACKEND", "")
    assert choose(None).name == "cython"


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_the_variable_chooses_the_instruction_set(isa):
    from fastalign.backends import cython_cpu

    usable("cython")
    if isa not in cython_cpu.isas():
        pytest.skip(f"{isa} is not built or not run by this processor")
    code = "import numpy as np, fastalign; from fastalign.backends import cython_cpu; print(cython_cpu.isa())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTALIGN_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == isa


def said(code):
    """What a new process prints; nothing of it in complaint."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.strip()


def test_large_calls_at_the_end_of_the_interpreter():
    """It starts no more threads then: the caller computes all parts."""
    usable("cython")
    code = (
        "import atexit, numpy as np, fastalign\n"
        "fastalign.set_num_threads(2)\n"
        "x = np.zeros((100, 5000), np.float32)\n"
        "call = lambda: fastalign.token_log_probs(x, np.zeros(100, int)).logp\n"
        "want = call()\n"
        "atexit.register(lambda: print(np.array_equal(call(), want)))"
    )
    assert said(code) == "True"


def test_a_first_large_call_at_the_end_of_the_interpreter():
    """The pool cannot even be imported then."""
    code = (
        "import atexit, sys\n"
        "from fastalign import threads\n"
        "found = []\n"
        "def last():\n"
        "    threads.run(lambda a, b: found.append((a, b)), 30, 1, 3)\n"
        "    print(sorted(found) == [(0, 10), (10, 20), (20, 30)], 'concurrent.futures.thread' in sys.modules)\n"
        "atexit.register(last)"
    )
    assert said(code) == "True False"


def test_warmup(backend):
    fastalign.warmup(backend)
    fastalign.warmup()
    with pytest.raises(ValueError, match="backend is 'tpu'"):
        fastalign.warmup("tpu")


def test_numba_brings_the_pool_that_calls_its_kernels():
    usable("numba")
    code = "import sys, fastalign.backends.numba_cpu; print('concurrent.futures.thread' in sys.modules)"
    assert said(code) == "True"
