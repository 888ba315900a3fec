"""Warp operations for Numba's CUDA simulator, which has none.  Import it, with NUMBA_ENABLE_CUDASIM=1 set.

The lanes of a warp meet at a barrier to exchange their values; a lane that stays away breaks the barrier after
TIMEOUT seconds instead of hanging the run.  Full masks only.  Slow (the simulator gives every thread of a block
an operating-system thread): use it for a test or two of the launch path, and gsim for the kernels.
"""

import threading
from functools import partial

import numpy as np
from numba import cuda  # with numba-cuda, this makes numba.cuda its own
from numba.cuda.simulator import kernelapi

WARP, TIMEOUT = 32, 20
lock = threading.Lock()


class Warp:
    def __init__(self, lanes):
        self.barrier, self.values, self.lanes = threading.Barrier(lanes), [None] * WARP, lanes


def this_warp():
    """Return (warp, lane) of the calling thread."""
    thread = threading.current_thread()
    manager = thread._manager
    with lock:
        warps, number = manager.__dict__.setdefault("_warps", {}), thread.thread_id // WARP
        if number not in warps:
            warps[number] = Warp(min(WARP, int(np.prod(manager._block_dim)) - WARP * number))
    return warps[number], thread.thread_id % WARP


def exchange(mask, value):
    """Return (values of all lanes, this lane)."""
    warp, lane = this_warp()
    everyone = (1 << warp.lanes) - 1
    if int(mask) & everyone != everyone:
        raise NotImplementedError("simwarp: full masks only")
    warp.values[lane] = value
    warp.barrier.wait(TIMEOUT)
    values = warp.values[: warp.lanes]
    warp.barrier.wait(TIMEOUT)
    return values, lane


def pick(values, lane, own):
    return values[lane] if 0 <= lane < len(values) else own


class WarpOperations:
    """Methods to put on the simulator's ``cuda``."""

    def shfl_sync(self, mask, value, source):
        values, _ = exchange(mask, value)
        return pick(values, int(source) % WARP, value)

    def shfl_xor_sync(self, mask, value, bits):
        values, lane = exchange(mask, value)
        return pick(values, lane ^ int(bits), value)

    def shfl_down_sync(self, mask, value, distance):
        values, lane = exchange(mask, value)
        return pick(values, lane + int(distance), value)

    def shfl_up_sync(self, mask, value, distance):
        values, lane = exchange(mask, value)
        return pick(values, lane - int(distance), value)

    def ballot_sync(self, mask, predicate):
        return sum(1 << lane for lane, yes in enumerate(exchange(mask, bool(predicate))[0]) if yes)

    def all_sync(self, mask, predicate):
        return all(exchange(mask, bool(predicate))[0])

    def any_sync(self, mask, predicate):
        return any(exchange(mask, bool(predicate))[0])

    def syncwarp(self, mask=0xFFFF_FFFF):
        exchange(mask, None)

    def activemask(self):
        return (1 << this_warp()[0].lanes) - 1

    def nanosleep(self, nanoseconds):
        pass

    def ldcs(self, array, index):
        return array[index]

    def stcs(self, array, index, value):
        array[index] = value

    ldcg = ldca = ldcv = ldlu = ldcs
    stcg = stwb = stwt = stcs


for name, method in vars(WarpOperations).items():
    if not name.startswith("_"):
        setattr(kernelapi.FakeCUDAModule, name, method)
        # Functions of other modules than the kernel's see the module itself.
        setattr(cuda, name, partial(method, None))
