"""How many threads walk a loop; and a small pool of Python threads over kernels that release the GIL.

The extension divides its loops itself where it can (src_ext/share.h), Numba's kernels are called by the pool.

a) No OpenMP: its runtime hangs in the child of a fork, and every wheel brings another copy.
b) The caller computes the first part itself; idle workers sleep.
c) A part is a range of rows, blocks or streams that no count of threads changes the result of.
d) Serial inside our own workers and off the main thread: there dask, joblib or a server already run in parallel.
e) A fork leaves the child without threads, so the child starts afresh.
"""

import os
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from . import arrays

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

try:  # 0.1 us instead of 0.7
    environment = import_module(f"{__package__}._cpu").environment
except (ImportError, AttributeError):  # not built, or not from these sources

    def environment(name: str) -> str:
        return os.environ.get(name, "")


# 16 x 1000 logits: serial 82 us, two threads 140; 64 x 4000: 355 against 290.
WORTH_SHARING = 200_000
COLUMNS = 64  # of float32 or of flags, a whole number of cache lines: threads share none of them
CHEAP = 4  # steps of streams side by side for one elsewhere: 128 x 4096, one thread 250 us, two 275; x 8192, 470, 360

_asked: int | None = None
_pool: "ThreadPoolExecutor | None" = None
_lock = threading.Lock()


def _from_environment(name: str) -> int | None:
    text = environment(name)
    if not text:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        if name.startswith("FASTALIGN_"):
            raise ValueError(f"{name} is {text!r}; expected a positive integer")
        return None  # OMP_NUM_THREADS may hold a list, which is not ours to judge
    return int(text)


def thread_count_and_source() -> tuple[int, str]:
    """How many threads, and where the number comes from."""
    if _asked is not None:
        return _asked, "set_num_threads"
    for name in ("FASTALIGN_NUM_THREADS", "OMP_NUM_THREADS"):
        count = _from_environment(name)
        if count is not None:
            return count, name
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)), "CPU affinity"
    return os.cpu_count() or 1, "CPU count"


def get_num_threads() -> int:
    """Number of threads that large calls are divided among.

    set_num_threads, else FASTALIGN_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs this process may use.

    >>> import fastalign
    >>> fastalign.get_num_threads() >= 1
    True
    """
    return thread_count_and_source()[0]


def set_num_threads(n: int | None) -> None:
    """Divide large calls among ``n`` threads; None returns to the environment's choice.

    Calls from other threads than the main one use one: there others already run side by side.  Results do not depend on
    it, to the last bit.  Raises ValueError unless n is a positive integer.

    >>> import fastalign
    >>> fastalign.set_num_threads(1)
    >>> fastalign.get_num_threads()
    1
    >>> fastalign.set_num_threads(None)
    """
    global _asked, _pool
    n = None if n is None else arrays.count("n", n)
    with _lock:
        _asked, _pool = n, None  # callers still using the old pool keep it alive until they are done


def parts(n: int, grain: int, work: int) -> int:
    """Into how many ranges to divide ``n`` items of ``work`` elements in all."""
    if n <= grain or work < WORTH_SHARING or threading.current_thread() is not threading.main_thread():
        return 1
    return min(get_num_threads(), -(-n // grain), work // (WORTH_SHARING // 2))


def stream_parts(side_by_side: bool, n: int, size: int) -> int:
    """Into how many ranges to divide ``n`` streams of ``size`` steps in all."""
    return parts(n, COLUMNS, size // CHEAP) if side_by_side else parts(n, 1, size)


def run(body: Callable[[int, int], None], n: int, grain: int, count: int) -> None:
    """body(a, b) for ``count`` ranges that cover range(n), cut at multiples of ``grain``."""
    grains = -(-n // grain)
    cuts = [min(n, grains * k // count * grain) for k in range(count + 1)]
    jobs: list[Future[None]] = []
    try:
        pool = _workers(count - 1)
        for k in range(1, count):
            jobs.append(pool.submit(body, cuts[k], cuts[k + 1]))
    except (ImportError, RuntimeError):
        pass  # the interpreter is about to end and starts no more threads, nor imports what would
    try:
        body(cuts[0], cuts[1])
        for k in range(len(jobs) + 1, count):
            body(cuts[k], cuts[k + 1])
    finally:
        for job in jobs:
            job.exception()  # wait: the arrays are still in use
    for job in jobs:
        job.result()


def _workers(count: int) -> "ThreadPoolExecutor":
    from concurrent.futures import ThreadPoolExecutor  # 9 ms, most of them logging

    global _pool
    with _lock:
        if _pool is None or _pool._max_workers < count:
            _pool = ThreadPoolExecutor(max(count, get_num_threads() - 1), thread_name_prefix="fastalign")
        return _pool


def _after_fork() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
