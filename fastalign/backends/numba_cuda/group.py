"""Segments of a flat array: a warp per segment."""

from typing import Any

from .device import FULL, WARP, cuda, f64, i64, u32, u64, warp_sum

THREADS = 256
PER_BLOCK = THREADS // WARP


def make_reduce() -> Any:
    def group_reduce(values, offsets, mask, mean, out, counts):
        """The lanes read together and then all add in index order: a padded batch gives the bits of the packed one."""
        lane = u64(u32(cuda.threadIdx.x) & u32(31))
        b = u64(cuda.blockIdx.x) * u64(PER_BLOCK) + u64(u32(cuda.threadIdx.x) >> u32(5))
        while b < u64(out.size):
            start = u64(offsets[b])
            end = u64(offsets[u64(b + u64(1))])
            total = f64(0.0)
            count = i64(0)
            while start < end:
                i = u64(start + lane)
                value = f64(0.0)
                if i < end:
                    counts_here = True
                    if mask.size > 0:
                        counts_here = mask[i] != 0
                    if counts_here:
                        value = f64(values[i])
                        count += i64(1)
                for k in range(WARP):
                    total += cuda.shfl_sync(FULL, value, k)
                start = u64(start + u64(WARP))
            count = warp_sum(count)
            if lane == u64(0):
                counts[b] = count
                out[b] = total / f64(count) if mean and count > 1 else total
            b = u64(b + u64(cuda.gridDim.x) * u64(PER_BLOCK))

    return group_reduce


def make_spread() -> Any:
    def group_spread(grad, offsets, mask, mean, counts, out):
        lane = u64(u32(cuda.threadIdx.x) & u32(31))
        b = u64(cuda.blockIdx.x) * u64(PER_BLOCK) + u64(u32(cuda.threadIdx.x) >> u32(5))
        while b < u64(grad.size):
            i = u64(u64(offsets[b]) + lane)
            end = u64(offsets[u64(b + u64(1))])
            share = f64(grad[b])
            if mean and counts[b] > 1:
                share = share / f64(counts[b])
            while i < end:
                counts_here = True
                if mask.size > 0:
                    counts_here = mask[i] != 0
                out[i] = share if counts_here else f64(0.0)
                i = u64(i + u64(WARP))
            b = u64(b + u64(cuda.gridDim.x) * u64(PER_BLOCK))

    return group_spread
