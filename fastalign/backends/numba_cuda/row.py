"""Rows [R, V] of logits: one block per row.

A lane folds its elements in one pass into (peak, total, weighted), with total = Σ exp(z − peak) and
weighted = Σ exp(z − peak)(z − peak): float32 over RUN elements, then into doubles.  Lanes and warps are joined in a
fixed order.
"""

from typing import Any, NamedTuple

from .device import (
    WARP,
    as_is,
    binding,
    cuda,
    device,
    exp,
    f32,
    f64,
    log,
    narrow_bf16,
    narrow_f16,
    u32,
    u64,
    warp_max,
    warp_sum,
    widen_bf16,
    widen_f16,
)

THREADS = 256
WARPS = THREADS // WARP
RUN = 32
NAN, INF = float("nan"), float("inf")


class Kind(NamedTuple):
    """How logits are read, computed with and written; ``floor`` is where exp has long been 0."""

    real: Any
    widen: Any
    narrow: Any
    lowest: float
    floor: float


def kind_of(name: str) -> Kind:
    if name == "f64":
        return Kind(f64, as_is, as_is, -1.7976931348623157e308, -1000.0)
    widen, narrow = {"f32": (as_is, as_is), "f16": (widen_f16, narrow_f16), "bf16": (widen_bf16, narrow_bf16)}[name]
    return Kind(f32, widen, narrow, -3.4028234663852886e38, -200.0)


@device
def below(peak, value, scale, floor):
    """(value − peak) scale, at least ``floor`` (−inf would meet a 0); 0 of the same infinity; NaN stays.

    Scaled after the difference: a logit divided by a small temperature may be beyond the largest number.
    """
    if value == peak:
        return floor - floor
    distance = (value - peak) * scale
    return floor if distance < floor else distance


def make_fold(kind: str) -> Any:
    """A device function that all threads of a block call: (peak, total, weighted) of row r, as doubles.

    The peak is that of the logits as they are, the sums are of the scaled ones.
    """
    real, widen, _, lowest, floor = kind_of(kind)

    @device
    def fold(logits, r, scale, peaks, totals, weights):
        columns = u64(logits.shape[1])
        thread = u32(cuda.threadIdx.x)
        threads = u64(cuda.blockDim.x)
        peak = real(lowest)
        total = f64(0.0)
        weighted = f64(0.0)
        j = u64(thread)
        while j < columns:
            before = peak
            part = real(0.0)
            bend = real(0.0)
            end = u64(j + u64(RUN) * threads)
            end = columns if end > columns else end
            while j < end:
                z = real(widen(logits[r, j]))
                if z > peak:
                    shift = below(z, peak, scale, real(floor))
                    shrink = exp(shift)
                    bend = real((bend + shift * part) * shrink)
                    part = real(part * shrink)
                    peak = z
                distance = below(peak, z, scale, real(floor))
                mass = exp(distance)
                part += mass
                bend += mass * distance
                j = u64(j + threads)
            shift = below(peak, before, scale, real(floor))
            shrink = f64(exp(shift))
            weighted = (weighted + f64(shift) * total) * shrink + f64(bend)
            total = total * shrink + f64(part)

        top = warp_max(peak)
        far = below(f64(top), f64(peak), f64(scale), f64(-1000.0))
        shrink = exp(far)
        weighted = warp_sum((weighted + far * total) * shrink)
        total = warp_sum(total * shrink)
        warp = u32(thread >> u32(5))
        if u32(thread & u32(31)) == u32(0):
            peaks[warp] = f64(top)
            totals[warp] = total
            weights[warp] = weighted
        cuda.syncthreads()
        warps = u32(u32(cuda.blockDim.x) >> u32(5))
        summit = peaks[0]
        w = u32(1)
        while w < warps:
            summit = peaks[w] if peaks[w] > summit else summit
            w = u32(w + u32(1))
        total = f64(0.0)
        weighted = f64(0.0)
        w = u32(0)
        while w < warps:
            far = below(summit, peaks[w], f64(scale), f64(-1000.0))
            shrink = exp(far)
            weighted += (weights[w] + far * totals[w]) * shrink
            total += totals[w] * shrink
            w = u32(w + u32(1))
        cuda.syncthreads()  # the next row writes there
        return summit, total, weighted

    return fold


def make_forward(kind: str) -> Any:
    real, widen = kind_of(kind)[:2]
    fold = make_fold(kind)
    row_entropy = binding().rules.row_entropy

    def row_forward(logits, tokens, mask, scale, logp, lse, entropy):
        peaks = cuda.shared.array(WARPS, f64)
        totals = cuda.shared.array(WARPS, f64)
        weights = cuda.shared.array(WARPS, f64)
        factor = real(scale)
        first = u32(cuda.threadIdx.x) == u32(0)
        r = u64(cuda.blockIdx.x)
        while r < u64(logits.shape[0]):
            if mask.size > 0 and mask[r] == 0:
                if first:
                    logp[r] = real(0.0)
                    lse[r] = real(0.0)
                    if entropy.size > 0:
                        entropy[r] = real(0.0)
            else:
                peak, total, weighted = fold(logits, r, factor, peaks, totals, weights)
                if first:
                    log_total = log(total)
                    level = peak * f64(scale) + log_total
                    sound = abs(peak + log_total) < f64(INF)  # of no finite logit: −inf; with a NaN: NaN
                    token = tokens[r]
                    chosen = f64(NAN)
                    if sound and token >= 0 and u64(token) < u64(logits.shape[1]):
                        z = real(widen(logits[r, u64(token)]))
                        chosen = (f64(z) - peak) * f64(scale) - log_total
                    logp[r] = real(chosen)
                    lse[r] = real(level)
                    if entropy.size > 0:
                        entropy[r] = real(row_entropy(total, weighted)) if sound else real(NAN)
            r = u64(r + u64(cuda.gridDim.x))

    return row_forward


def make_backward(kind: str) -> Any:
    real, widen, narrow, _, _ = kind_of(kind)
    fold = make_fold(kind)
    rules = binding().rules
    row_entropy, row_slope, row_trusted = rules.row_entropy, rules.row_slope, rules.row_trusted
    row_moment_slope = rules.row_moment_slope

    def row_backward(
        logits, tokens, mask, scale, grad_logp, grad_lse, grad_entropy, lse, entropy, out, grad_sum_p2, sum_p2,
        grad_mean_logit,
    ):  # fmt: skip
        peaks = cuda.shared.array(WARPS, f64)
        totals = cuda.shared.array(WARPS, f64)
        weights = cuda.shared.array(WARPS, f64)
        factor = real(scale)
        columns = u64(logits.shape[1])
        threads = u64(cuda.blockDim.x)
        saved = lse.size > 0 and (entropy.size > 0 or grad_entropy.size == 0)
        r = u64(cuda.blockIdx.x)
        while r < u64(logits.shape[0]):
            j = u64(cuda.threadIdx.x)
            if mask.size > 0 and mask[r] == 0:
                while j < columns:
                    out[r, j] = narrow(real(0.0))
                    j = u64(j + threads)
            else:
                peak = f64(0.0)
                log_total = f64(0.0)
                own_entropy = f64(0.0)
                again = True
                if saved:
                    again = row_trusted(f64(lse[r])) == f64(0.0)
                if again:
                    peak, total, weighted = fold(logits, r, factor, peaks, totals, weights)
                    log_total = log(total)
                    own_entropy = row_entropy(total, weighted)
                else:
                    log_total = f64(lse[r])
                    if entropy.size > 0:
                        own_entropy = f64(entropy[r])
                g_logp = f64(grad_logp[r])
                g_lse = f64(grad_lse[r]) if grad_lse.size > 0 else f64(0.0)
                g_entropy = f64(grad_entropy[r]) if grad_entropy.size > 0 else f64(0.0)
                g_square = f64(grad_sum_p2[r]) if grad_sum_p2.size > 0 else f64(0.0)
                g_mean = f64(grad_mean_logit[r]) if grad_mean_logit.size > 0 else f64(0.0)
                own_square = f64(sum_p2[r]) if grad_sum_p2.size > 0 else f64(0.0)
                a, b = row_slope(g_logp, g_lse, g_entropy, own_entropy, f64(scale))
                shift, c, d = row_moment_slope(g_square, g_mean, own_square, f64(columns), f64(scale))
                token = tokens[r]
                sound = abs(peak + log_total) < f64(INF) and token >= 0 and u64(token) < columns
                base = real(peak)
                rest = real(log_total)
                slope = real(a + shift)
                curve = real(b)
                bend = real(c)
                level = real(d)
                pull = real(g_logp * f64(scale))
                while j < columns:
                    value = real(NAN)
                    if sound:
                        log_p = real((real(widen(logits[r, j])) - base) * factor - rest)
                        p = exp(log_p)
                        value = real(0.0) if p == real(0.0) else real(p * (slope + curve * log_p + bend * p))
                        value += level
                        if j == u64(token):
                            value += pull
                    out[r, j] = narrow(value)
                    j = u64(j + threads)
            r = u64(r + u64(cuda.gridDim.x))

    return row_backward


def make_first_bad() -> Any:
    def first_bad(tokens, mask, vocabulary, found):
        """found[0]: the smallest position whose token is outside [0, vocabulary) and counts."""
        i = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        while i < u64(tokens.size):
            counts = True
            if mask.size > 0:
                counts = mask[i] != 0
            if counts and (tokens[i] < 0 or tokens[i] >= vocabulary):
                cuda.atomic.min(found, 0, i)
            i = u64(i + u64(cuda.gridDim.x) * u64(cuda.blockDim.x))

    return first_bad
