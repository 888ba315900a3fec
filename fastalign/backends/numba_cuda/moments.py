"""Σ p², the mean and the argmax of rows of logits, folded as row.py folds: one block per row."""

from typing import Any

from .device import binding, cuda, exp, f64, u32, u64, warp_max, warp_sum
from .row import INF, NAN, RUN, WARPS, below, kind_of


def make_moments(kind: str) -> Any:
    """Σ p², the mean and the argmax, in a sweep of their own: beside them the plain forward would lose registers."""
    real, widen, _, lowest, floor = kind_of(kind)
    rules = binding().rules
    row_sum_p2, row_mean_logit = rules.row_sum_p2, rules.row_mean_logit

    def row_moments(logits, tokens, mask, scale, sum_p2, mean_logit, top1):
        peaks = cuda.shared.array(WARPS, f64)
        totals = cuda.shared.array(WARPS, f64)
        squares = cuda.shared.array(WARPS, f64)
        linears = cuda.shared.array(WARPS, f64)
        larger = cuda.shared.array(WARPS, f64)
        factor = real(scale)
        columns = u64(logits.shape[1])
        thread = u32(cuda.threadIdx.x)
        threads = u64(cuda.blockDim.x)
        r = u64(cuda.blockIdx.x)
        while r < u64(logits.shape[0]):
            kept = True
            if mask.size > 0:
                kept = mask[r] != 0
            if kept:
                token = tokens[r]
                inside = token >= 0 and u64(token) < columns
                chosen = real(widen(logits[r, u64(token)])) if inside else real(NAN)
                peak = real(lowest)
                total = f64(0.0)
                square = f64(0.0)
                linear = f64(0.0)
                ahead = u32(0)  # 1: an element is not below the token's; none is, of NaN
                j = u64(thread)
                while j < columns:
                    before = peak
                    part = real(0.0)
                    dense = real(0.0)
                    level = real(0.0)
                    end = u64(j + u64(RUN) * threads)
                    end = columns if end > columns else end
                    while j < end:
                        z = real(widen(logits[r, j]))
                        if z > peak:
                            shrink = exp(below(z, peak, factor, real(floor)))
                            part = real(part * shrink)
                            dense = real(dense * shrink * shrink)
                            peak = z
                        mass = exp(below(peak, z, factor, real(floor)))
                        part += mass
                        dense += mass * mass
                        level += z
                        passed = z < chosen
                        if j > u64(token):
                            passed = z <= chosen
                        if not passed and j != u64(token):
                            ahead = u32(1)
                        j = u64(j + threads)
                    shrink = f64(exp(below(peak, before, factor, real(floor))))
                    total = total * shrink + f64(part)
                    square = square * shrink * shrink + f64(dense)
                    linear += f64(level)
                top = warp_max(peak)
                shrink = exp(below(f64(top), f64(peak), f64(scale), f64(-1000.0)))
                total = warp_sum(total * shrink)
                square = warp_sum(square * shrink * shrink)
                linear = warp_sum(linear)
                beaten = warp_sum(f64(ahead))
                warp = u32(thread >> u32(5))
                if u32(thread & u32(31)) == u32(0):
                    peaks[warp] = f64(top)
                    totals[warp] = total
                    squares[warp] = square
                    linears[warp] = linear
                    larger[warp] = beaten
                cuda.syncthreads()
                if thread == u32(0):
                    warps = u32(u32(cuda.blockDim.x) >> u32(5))
                    summit = peaks[0]
                    w = u32(1)
                    while w < warps:
                        summit = peaks[w] if peaks[w] > summit else summit
                        w = u32(w + u32(1))
                    total = f64(0.0)
                    square = f64(0.0)
                    linear = f64(0.0)
                    beaten = f64(0.0)
                    w = u32(0)
                    while w < warps:
                        shrink = exp(below(summit, peaks[w], f64(scale), f64(-1000.0)))
                        total += totals[w] * shrink
                        square += squares[w] * shrink * shrink
                        linear += linears[w]
                        beaten += larger[w]
                        w = u32(w + u32(1))
                    sound = abs(summit + total) < f64(INF)
                    if sum_p2.size > 0:
                        sum_p2[r] = real(row_sum_p2(total, square)) if sound else real(NAN)
                    if mean_logit.size > 0:
                        mean_logit[r] = real(row_mean_logit(linear, f64(columns), f64(scale)))
                    if top1.size > 0:
                        top1[r] = 1 if beaten == f64(0.0) and chosen == chosen else 0
                cuda.syncthreads()  # the next row writes there
            elif thread == u32(0):
                if sum_p2.size > 0:
                    sum_p2[r] = real(0.0)
                if mean_logit.size > 0:
                    mean_logit[r] = real(0.0)
                if top1.size > 0:
                    top1[r] = 0
            r = u64(r + u64(cuda.gridDim.x))

    return row_moments
