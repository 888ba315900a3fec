"""Recurrences of many streams that are neighbours in memory, without options.  What is free recurrence.py fills in."""

from .access import LINE, TILE, address, get, put, read, scratch, shift, start, write
from .lanes import LANES, clear, give, held, only, take

BLOCK = 8  # tiles of streams taken at once; of one tile it jumps from page to page (see sweep_rows)
BLOCK_AND_ONE = BLOCK + 1
WIDE = 512  # streams
ABREAST = 2 * LANES  # streams that take two steps at once
PAGE, NEARBY = 4096, 256  # bytes


def sweep_rows(x, follow, ends, carry, y, y_too, at, too, to, done, width, last, gamma, lam):
    """The step at ``at`` of all streams but those done, and the one before it at ``too``, which goes to ``y_too`` at
    ``to``.

    ``last`` is 1 for the last step of the data.  Two at once: carry and next value make the way to L1 and back half
    as often.  128 x 4096 with values, float32 / float64, in blocks of 4096 streams: 210 / 450 us; one step at a time in
    blocks of 128, 310 / 670.  Not done: where the outputs lie 16 to 48 bytes further on in their pages than the inputs,
    loads wait for stores (300 us); such a loop by 8, 32 or 64 streams from the last to the first took 550 to 1200.
    """
    for j in range(done, width):
        end, end_too = read((ends, ends), (at + j, too + j), no_flag)
        alive, going = 1.0 if end == 0 else 0.0, 1.0 if end | last == 0 else 0.0
        going_too = 1.0 if end_too == 0 else 0.0
        if valued:
            where, there = (at + j, at + j, too + j, too + j, j), (at + j, to + j, at + j, to + j)
            reward, value, reward_too, value_too, after = read((x[0], x[1], x[0], x[1], follow), where, 0.0)
            new = step(reward, value, after, get(carry, j), alive, going, gamma, lam)
            old = step(reward_too, value_too, value, new, going_too, going_too, gamma, lam)
            write((y[0], y_too[0], y[1], y_too[1]), there, (new, old, new + value, old + value_too))
        else:
            reward, reward_too, after = read((x[0], x[0], follow), (at + j, too + j, j), 0.0)
            new = step(reward, 0.0, after, get(carry, j), alive, going, gamma, lam)
            old = step(reward_too, 0.0, 0.0, new, going_too, going_too, gamma, lam)
            write((y[0], y_too[0]), (at + j, to + j), (new, old))
        put(carry, j, old)


def two_steps(x, ends, carry, follow, at, too, j, gamma, lam):
    """Of a vector of streams, neither step its stream's last; with the values of both.

    A rule that is told that all goes on, of zeros, does what it would choose where an episode ends.
    """
    open, open_too = held(clear(ends, at + j)), held(clear(ends, too + j))
    value, value_too, after, after_too = 0.0, 0.0, 0.0, 0.0
    if valued:
        value, value_too = take(x[1], at + j), take(x[1], too + j)
        after, after_too = only(open, take(follow, j)), only(open_too, value)
    new = step(take(x[0], at + j), value, after, only(open, take(carry, j)), 1.0, 1.0, gamma, lam)
    old = step(take(x[0], too + j), value_too, after_too, only(open_too, new), 1.0, 1.0, gamma, lam)
    return new, old, value, value_too


def give_both(y, carry, follow, at, too, j, found):
    new, old, value, value_too = found
    give(y[0], at + j, new)
    give(y[0], too + j, old)
    if valued:
        give(y[1], at + j, new + value)
        give(y[1], too + j, old + value_too)
        give(follow, j, value_too)
    give(carry, j, old)


def sweep_lanes(x, ends, carry, follow, y, at, too, width, down, gamma, lam):
    """As sweep_rows, by two vectors; how many streams are done.

    All is read before anything is written, and from the last stream to the first where ``downwards`` says so: a load
    waits for an earlier store to the same place of another page.  AVX2 in 128-bit halves (Zen 1), 128 x 4096 float32 /
    float64, arrays that begin at the same place of their pages: 690 / 1310 us, by sweep_rows 785 / 1300; out and
    returns 32 and 48 bytes further on: 680 / 1300, by sweep_rows 990 / 2200.  The next value is carried as a double: to
    convert it again is one conversion more than eight (of a whole call 757 us for 698).
    """
    whole = width - width % ABREAST
    j, by = (whole - ABREAST, -ABREAST) if down else (0, ABREAST)
    for _ in range(whole // ABREAST):
        first = two_steps(x, ends, carry, follow, at, too, j, gamma, lam)
        second = two_steps(x, ends, carry, follow, at, too, j + LANES, gamma, lam)
        give_both(y, carry, follow, at, too, j, first)
        give_both(y, carry, follow, at, too, j + LANES, second)
        j += by
    return whole


def ahead(stored, loaded):
    """1 where a store goes to a place of its page a little beyond the load's, -1 where a little before it."""
    apart = (address(stored) - address(loaded)) & (PAGE - 1)
    return 0 if apart == 0 else 1 if apart < NEARBY else -1 if apart > PAGE - NEARBY else 0


def downwards(x, y):
    """As fa_scan_downwards in src_ext/scan.h."""
    return ahead(y[0], x[0]) + ahead(y[0], x[-1]) + ahead(y[-1], x[0]) + ahead(y[-1], x[-1]) > 0


def lead(x, y, streams):
    """How many streams lie before the first whole cache line of wide rows, where it is the same in all arrays.

    What lies across two lines costs as much as two.
    """
    here = address(x[0])
    apart = (here ^ address(x[-1])) | (here ^ address(y[0])) | (here ^ address(y[-1])) | streams * size
    return 0 if streams < WIDE or apart & (LINE - 1) else (-here & (LINE - 1)) // size


def sweep(rewards, values, last_values, terminated, gamma, lam, out, returns):
    streams, ends = rewards.shape[1], start(terminated)
    x = (start(rewards), start(values)) if valued else (start(rewards),)
    y = (start(out), start(returns)) if valued else (start(out),)
    carry, spare, first, width = scratch(0.0, BLOCK), scratch(zero, BLOCK), 0, lead(x, y, streams)
    # Half a page beyond the carry, lest one waits for the other's stores.
    after, down = shift(scratch(0.0, BLOCK_AND_ONE), TILE // 2), downwards(x, y)
    while first < streams:
        width = width if width > 0 else BLOCK * TILE
        width = width if first + width < streams else streams - first
        for j in range(width):
            put(carry, j, 0.0)
            put(spare, j, zero)
        follow, last, at = spare, one_flag, rewards.size - streams + first
        if last_values.size:
            follow = shift(start(last_values), first)
        while at >= 0:
            too, done = at - streams, 0
            y_too, to = y, too
            if too < 0:  # their number is odd: the first step comes again, and goes nowhere
                y_too, to, too = ((spare, spare) if valued else (spare,)), 0, at
            if spreading:
                if last == 0 and too < at:
                    done = sweep_lanes(x, ends, carry, after, y, at, too, width, down, gamma, lam)
            if done < width:
                sweep_rows(x, follow, ends, carry, y, y_too, at, too, to, done, width, last, gamma, lam)
            follow = shift(x[-1], too) if valued else spare
            if spreading:
                for j in range(width if last else 0):
                    put(after, j, number(get(follow, j)))
            last, at = no_flag, at - 2 * streams
        first, width = first + width, 0
