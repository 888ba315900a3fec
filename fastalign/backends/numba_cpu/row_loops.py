"""The loops over rows, each by itself (row.py) or with its neighbours, of few columns (slim.py) or some (brief.py)."""

import math

import numpy as np

from .. import CUT, PART
from .access import NO, get, over, product, put, scratch, start
from .access import shift as after
from .brief import BRIEF, KEPT
from .exponential import LOG2E
from .slim import ABREAST, ENTROPY, FATE, LINEAR, OWN, PEAK, REST, SQUARES, TOTAL, WEIGHTED, A, B, C, D
from .tiles import NOTES, PAIR

SHORTEST = 1024  # elements of a tile, at least
NO_ROOMS = {real: (np.empty((0, 0), real), np.empty((0, 0))) for real in "fd"}  # by character


def row_rooms(logits: np.ndarray, out: np.ndarray, real: str, straight: bool) -> tuple[np.ndarray, np.ndarray]:
    """For the exponentials of one row after the other, and for notes of them: in the gradient itself, or beside it
    where that is the logits or of halves.  None of as few columns as are brief, where what keeps them needs no room if
    slopes are ``straight``, of p alone; or of so many that a row has parts."""
    columns = logits.shape[1]
    if not (KEPT if straight else BRIEF) < columns <= CUT:
        return NO_ROOMS[real]
    free = out.dtype.char == real and not np.may_share_memory(logits, out)
    return out if free else np.empty((1, columns), real), np.empty((1, NOTES * -(-columns // SHORTEST)))


def fill_parts(logits, mask, scale, spread, moments, parts, first, last):
    columns, room, notes = logits.shape[1], scratch(zero, 1), scratch(0.0, 1)
    cuts = -(-columns // CUT)
    for unit in range(first, last):
        r, at = unit // cuts, unit % cuts * CUT
        if mask.size == 0 or mask[r] != 0:
            row = after(start(logits), r * columns + at)
            part = row_part(row, min(CUT, columns - at), scale, spread, moments, NO, room, notes)
            parts[unit, 0], parts[unit, 1], parts[unit, 2], parts[unit, 3] = part[0], part[1], part[2], part[3]
            parts[unit, 4], parts[unit, 5], parts[unit, 6] = part[4], part[5], part[6]


def first_top(row, y, most):
    """Whether element y is the first of the largest; of a row with NaN none is."""
    if np.float64(wide(get(row, y))) != most:
        return False
    for at in range(0, y, tile):
        if tile_max(after(row, at), min(tile, y - at)) >= most:
            return False
    return True


def write_kept(row, size, scale, peak, rest, a, b, room, notes, out):
    """As write_slopes, of p (a + b log p), from the exponentials of a sum."""
    base, left = base_of(peak, rest, scale) if b != 0.0 else (real(0.0), 0.0)
    slope, octaves = a + b * left, real(scale * LOG2E)
    for at in range(0, size, tile):
        note, n, factor = after(notes, NOTES * (at // tile)), min(tile, size - at), 0.0
        unit = get(note, 1)
        if unit > 0.0:
            factor = math.exp((get(note, 0) - peak) * scale - rest) / unit
        if factor == 0.0 or not (folds(factor) and folds(slope * factor) and folds(b * factor)):
            write_slopes(after(row, at), n, scale, peak, rest, a, b, 0.0, 0.0, after(out, at))
        elif b == 0.0:
            over(n, straight_step, (after(room, at),), (after(out, at),), (real(a * factor),), 0, PAIR)
        else:
            params = base, octaves, real(slope * factor), real(b * factor / LOG2E)
            over(n, kept_step, ((after(row, at),), (after(room, at),)), (after(out, at),), params, 0, PAIR)


def forward(logits, tokens, mask, scale, logp, lse, entropy, sum_p2, mean_logit, top1, parts):
    columns = logits.shape[1]
    cuts = -(-columns // CUT)
    spread, moments = entropy.size > 0, sum_p2.size > 0 or mean_logit.size > 0 or top1.size > 0
    slim, brief, s = is_slim(columns, scale), is_brief(columns, scale, BRIEF), scratch(0.0, 1)
    room, notes = scratch(zero, 1), scratch(0.0, 1)
    for r in range(logits.shape[0]):
        row, lane = after(start(logits), r * columns), r % ABREAST
        if lane == 0 and (slim or brief):
            rows = min(ABREAST, logits.shape[0] - r)
            if slim:
                slim_states(row, columns, rows, scale, spread, moments, s)
            else:
                brief_states(row, columns, rows, scale, spread, moments, after(start(mask), r), mask.size > 0, s)
        kept = mask.size == 0 or mask[r] != 0
        peak, total, weighted, squares, linear, most, sound = 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, True
        chosen, rest, h = 0.0, 0.0, 0.0
        if kept:
            if (slim or brief) and get(s, TOTAL + lane) >= 1.0:
                peak, total, rest = get(s, PEAK + lane), get(s, TOTAL + lane), get(s, REST + lane)
                weighted, squares, linear = get(s, WEIGHTED + lane), get(s, SQUARES + lane), get(s, LINEAR + lane)
                h, most, sound = get(s, ENTROPY + lane), peak, True
            else:
                peak, total, weighted, squares, linear, most, sound = row_state(
                    row, columns, scale, spread, moments, after(start(parts), r * cuts * PART), parts.size > 0,
                    NO, room, notes,
                )  # fmt: skip
                rest = math.log(total)
                h = row_entropy(total, weighted) if spread else 0.0
            chosen = np.float64(wide(get(row, tokens[r])))
        lse[r] = peak * scale + rest if sound else peak
        logp[r] = (chosen - peak) * scale - rest if sound else np.nan
        if entropy.size:
            entropy[r] = h if sound else np.nan
        if sum_p2.size:
            sum_p2[r] = row_sum_p2(total, squares) if sound else np.nan
        if mean_logit.size:
            mean_logit[r] = row_mean_logit(linear, np.float64(columns), scale)
        if top1.size:
            top1[r] = kept and first_top(row, tokens[r], most)


def backward(
    logits, tokens, mask, scale, grad_logp, grad_lse, grad_entropy, lse, entropy, out, grad_sum_p2, grad_mean_logit,
    parts, first, last, room, notes,
):  # fmt: skip
    """With room for exponentials, where no lse is saved, slopes are products of those that are summed.

    ns per element of 32 x 32,000 without lse, on an EPYC of 2017: float32 1.98 by exponentials taken twice, so 1.25,
    float64 5.75 and 3.2; with an entropy's gradient 1.88 and 1.42, 5.8 and 3.5 (the extension 1.2 and 3.4).  With room
    for one row, that stays in L2, instead of the gradient itself, 5 % slower in the caches and 12 past them.
    """
    columns = logits.shape[1]
    cuts = -(-columns // CUT)
    straight = grad_entropy.size == 0 and grad_sum_p2.size == 0 and grad_mean_logit.size == 0
    slim, s, token, chosen = is_slim(columns, scale), scratch(0.0, 1), scratch(np.int64(0), 1), 0.0
    keeps = straight and lse.size == 0 and is_brief(columns, scale, KEPT)
    brief = keeps or is_brief(columns, scale, BRIEF)
    multiplies, e, note = room.size > 0, start(room), start(notes)
    for unit in range(first, last):
        r, at = (unit, 0) if cuts == 1 else (unit // cuts, unit % cuts * CUT)
        row, lane = after(start(logits), r * columns), (unit - first) % ABREAST if slim or brief else 0
        if lane == 0 and (slim or brief) and not keeps:
            rows = min(ABREAST, last - unit)
            anew = lse.size == 0 or (grad_entropy.size > 0 and entropy.size == 0) or grad_sum_p2.size > 0
            for k in range(r, r if anew else r + rows):
                anew |= row_trusted(np.float64(lse[k])) == 0.0
            if anew:
                spread, moments = grad_entropy.size > 0, grad_sum_p2.size > 0
                if slim:
                    slim_states(row, columns, rows, scale, spread, moments, s)
                else:
                    brief_states(row, columns, rows, scale, spread, moments, after(start(mask), r), mask.size > 0, s)
        kept, y = mask.size == 0 or mask[r] != 0, tokens[r]
        if not kept:
            slope_none(s, lane, token)
        elif at == 0 or unit == first:  # before out, which may be logits, is written
            g_entropy = np.float64(grad_entropy[r]) if grad_entropy.size else 0.0
            g_squares = np.float64(grad_sum_p2[r]) if grad_sum_p2.size else 0.0
            g_mean = np.float64(grad_mean_logit[r]) if grad_mean_logit.size else 0.0
            g_lse = np.float64(grad_lse[r]) if grad_lse.size else 0.0
            g_logp = np.float64(grad_logp[r])
            peak, q = 0.0, 0.0
            rest = np.float64(lse[r]) if lse.size else 0.0
            h = np.float64(entropy[r]) if entropy.size else 0.0
            saved = lse.size > 0 and (g_entropy == 0.0 or entropy.size > 0) and g_squares == 0.0
            e = after(start(room), (r if room.shape[0] > 1 else 0) * room.shape[1])
            if not keeps and (not saved or row_trusted(rest) == 0.0):
                if (slim or brief) and get(s, TOTAL + lane) >= 1.0:
                    total, squares, sound = get(s, TOTAL + lane), get(s, SQUARES + lane), True
                    peak, rest, fresh = get(s, PEAK + lane), get(s, REST + lane), get(s, ENTROPY + lane)
                else:
                    peak, total, weighted, squares, _, _, sound = row_state(
                        row, columns, scale, g_entropy != 0.0, g_squares != 0.0,
                        after(start(parts), r * cuts * PART), parts.size > 0, multiplies, e, note,
                    )  # fmt: skip
                    rest = math.log(total)
                    fresh = row_entropy(total, weighted) if g_entropy != 0.0 else 0.0
                if g_entropy != 0.0:
                    h = fresh if sound else np.nan
                if g_squares != 0.0:
                    q = row_sum_p2(total, squares)
            a, b = row_slope(g_logp, g_lse, g_entropy, h, scale)
            shift, c, d = row_moment_slope(g_squares, g_mean, q, np.float64(columns), scale)
            slope_of(s, lane, peak, rest, a + shift, b, c, d, product(g_logp, scale))
            put(token, lane, y)
            if not (slim or brief):
                chosen = np.float64(wide(get(row, y)))
        if slim or brief:
            if lane == ABREAST - 1 or unit == last - 1:
                x, slopes = after(start(logits), (r - lane) * columns), after(start(out), (r - lane) * columns)
                if slim:
                    slim_bends(x, columns, lane + 1, scale, straight, s, token, slopes)
                elif keeps:
                    brief_straight(x, columns, lane + 1, scale, s, token, slopes)
                else:
                    brief_bends(x, columns, lane + 1, scale, s, token, slopes)
        else:
            size, slopes = min(CUT, columns - at), after(start(out), r * columns + at)
            if get(s, FATE) != 1.0:
                fill(slopes, size, get(s, FATE))
            else:
                peak, rest, a, b, c, d = get(s, PEAK), get(s, REST), get(s, A), get(s, B), get(s, C), get(s, D)
                if multiplies:
                    write_kept(row, size, scale, peak, rest, a, b, e, note, slopes)
                else:
                    write_slopes(after(row, at), size, scale, peak, rest, a, b, c, d, slopes)
                if at <= y < at + size:
                    t = (chosen - peak) * scale - rest
                    p = math.exp(t)
                    bent = (p * (a + b * t + c * p) if p > 0.0 else 0.0) + d
                    slope = bent + get(s, OWN)  # of a sure token 0
                    put(slopes, y - at, narrow(real(slope)))
