"""gsim: run the Python source of a CUDA kernel, one greenlet per thread.  Needs NumPy and greenlet only.

    launch(kernel, grid, block, *arguments, seed=None)

The kernel is a plain, undecorated function that says ``cuda.threadIdx.x`` and so on; gsim gives it, and the
plain functions it calls, its own ``cuda``.  Threads run in a fixed order, or shuffled with ``seed``; they switch
only at barriers and warp operations, so a run takes milliseconds and repeats exactly.

Reports a warp operation that waits for lanes which are at a barrier or gone.  Uninitialised shared and local
floats are NaN.  A missing barrier shows as wrong results, in some orders more than in others: try several seeds.
No race detector, no types, no bounds checks beyond NumPy's (negative indices wrap): see ptxsim for those.

Here: threadIdx, blockIdx, blockDim, gridDim in one dimension, grid, gridsize, laneid, shared.array, local.array,
syncthreads, syncwarp, threadfence, shfl_sync, shfl_xor_sync, shfl_down_sync, shfl_up_sync, ballot_sync, all_sync,
any_sync (full masks), atomic.add, atomic.max, atomic.min.
"""

import contextvars
from types import CellType, FunctionType, SimpleNamespace

import greenlet
import numpy as np

WARP = 32
RUNNING, AT_BARRIER, IN_WARP, DONE = "running", "barrier", "warp", "done"


class Warp:
    """Lanes exchange values: each posts one, the last to come publishes all."""

    def __init__(self, lanes):
        self.lanes, self.posted, self.arrived, self.published, self.round = lanes, [None] * lanes, 0, None, 0


class Thread:
    def __init__(self, index, warp, function):
        self.index, self.lane, self.warp = index, index % WARP, warp
        self.greenlet, self.state, self.waits_for, self.shared_arrays = greenlet.greenlet(function), RUNNING, None, 0
        self.greenlet.gr_context = contextvars.copy_context()  # NumPy's errstate


class Cuda:
    """What the kernel sees as ``cuda``."""

    def __init__(self, grid, block):
        one = SimpleNamespace
        self.gridDim, self.blockDim = one(x=grid, y=1, z=1), one(x=block, y=1, z=1)
        self.shared, self.local = one(array=self._shared_array), one(array=_fresh)
        self.atomic = one(add=self._atomic(lambda old, v: old + v), max=self._atomic(max), min=self._atomic(min))
        self.thread = self.block = self.memory = self.scheduler = None  # set by launch

    threadIdx = property(lambda self: SimpleNamespace(x=self.thread.index, y=0, z=0))
    blockIdx = property(lambda self: SimpleNamespace(x=self.block, y=0, z=0))
    laneid = property(lambda self: self.thread.lane)

    def grid(self, dimensions):
        return self.block * self.blockDim.x + self.thread.index

    def gridsize(self, dimensions):
        return self.gridDim.x * self.blockDim.x

    def _shared_array(self, shape, dtype):
        # The n-th array that a thread asks for is the n-th of its block.
        n = self.thread.shared_arrays
        self.thread.shared_arrays += 1
        if n == len(self.memory):
            self.memory.append(_fresh(shape, dtype))
        return self.memory[n]

    @staticmethod
    def _atomic(update):
        def apply(array, index, value):
            old = array[index]
            array[index] = update(old, value)
            return old

        return apply

    def syncthreads(self):
        self.scheduler.switch(AT_BARRIER)

    def threadfence(self):
        pass

    def _exchange(self, value):
        thread, warp = self.thread, self.thread.warp
        warp.posted[thread.lane] = value
        warp.arrived += 1
        if warp.arrived == warp.lanes:
            warp.published, warp.arrived = list(warp.posted), 0
            warp.round += 1
        else:
            thread.waits_for = warp.round
            while warp.round == thread.waits_for:
                self.scheduler.switch(IN_WARP)
        return warp.published

    def _from_lane(self, value, lane):
        values = self._exchange(value)
        return values[lane] if 0 <= lane < len(values) else value

    def syncwarp(self, mask=None):
        self._exchange(None)

    def shfl_sync(self, mask, value, lane):
        return self._from_lane(value, lane % WARP)

    def shfl_xor_sync(self, mask, value, bits):
        return self._from_lane(value, self.thread.lane ^ bits)

    def shfl_down_sync(self, mask, value, distance):
        return self._from_lane(value, self.thread.lane + distance)

    def shfl_up_sync(self, mask, value, distance):
        return self._from_lane(value, self.thread.lane - distance)

    def ballot_sync(self, mask, predicate):
        return sum(1 << lane for lane, yes in enumerate(self._exchange(bool(predicate))) if yes)

    def all_sync(self, mask, predicate):
        return all(self._exchange(bool(predicate)))

    def any_sync(self, mask, predicate):
        return any(self._exchange(bool(predicate)))


def _fresh(shape, dtype):
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 0, dtype)


def rebind(function, cuda, done=None):
    """Copy ``function``, and the plain functions it refers to, with ``cuda`` in place of the real one."""
    done = {} if done is None else done
    if id(function) not in done:

        def rebound(value):
            other = isinstance(value, FunctionType) and "cuda" in value.__globals__
            return rebind(value, cuda, done) if other else value

        space = dict(function.__globals__)
        cells = tuple(CellType(rebound(cell.cell_contents)) for cell in function.__closure__ or ())
        copy = FunctionType(function.__code__, space, function.__name__, function.__defaults__, cells or None)
        done[id(function)] = copy
        for name in function.__code__.co_names:
            if name == "cuda":
                space[name] = cuda
            elif name in space:
                space[name] = rebound(space[name])
    return done[id(function)]


def launch(kernel, grid, block, *arguments, seed=None):
    """Run ``kernel`` on ``grid`` blocks of ``block`` threads, one block after the other."""
    cuda, rng = Cuda(grid, block), np.random.default_rng(seed)
    function = rebind(kernel, cuda)
    cuda.scheduler = greenlet.getcurrent()
    for cuda.block in range(grid):
        cuda.memory = []
        warps = [Warp(min(WARP, block - first)) for first in range(0, block, WARP)]
        alive = [Thread(index, warps[index // WARP], function) for index in range(block)]
        while alive:
            ready = [thread for thread in alive if thread.state != AT_BARRIER]
            if not ready:  # all have come to the barrier
                ready = alive
                for thread in alive:
                    thread.state = RUNNING
            if seed is not None:
                ready = [ready[i] for i in rng.permutation(len(ready))]
            progress = False
            for thread in ready:
                if thread.state == IN_WARP and thread.waits_for == thread.warp.round:
                    continue
                progress, cuda.thread = True, thread
                state = thread.greenlet.switch() if thread.greenlet else thread.greenlet.switch(*arguments)
                thread.state = DONE if thread.greenlet.dead else state
            if not progress:
                raise RuntimeError("a warp operation waits for lanes that are at a barrier or gone")
            alive = [thread for thread in alive if thread.state != DONE]
