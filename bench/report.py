"""The report: README.md with what is promised and what was found, kernels.md with every kernel, two pictures."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import plots
from results import in_units, read, table
from test_measures import CASES

GROUPS = {
    "rows": "Row kernels",
    "linear": "From hidden states",
    "losses": "Losses",
    "scan": "Advantages",
    "threads": "Threads",
    "backends": "Numba against Cython",
    "memory": "Memory",
    "accuracy": "Accuracy",
    "start": "Starting",
}
SHOW = {
    "share": lambda x: f"{x:.3g}×",
    "speedup": lambda x: f"{x:.3g}×",
    "seconds": in_units,
    "bytes": lambda x: f"{x / 1e6:.3g} MB",
    "error": lambda x: f"{x:.2g}",
}
HEADER = ["work", "against", "fastalign", "the other", "result"]
HOLDS, AIM, SHORT, SKIPPED = "holds", "aim met", "**falls short**", "skipped"


def figure(claim, ours, other):
    """What a claim is about, of minima or of medians."""
    if claim.kind == "speedup":
        return other / ours
    if claim.kind == "share":
        return ours / other
    return ours - (other or 0.0)


def state(claim, value):
    if claim.must is None:
        return ""
    sign = 1 if claim.kind == "speedup" else -1
    if sign * value < sign * claim.must:
        return SHORT
    return AIM if claim.aim is not None and sign * value >= sign * claim.aim else HOLDS


def bound(claim, limit):
    if limit is None:
        return ""
    return ("≥ " if claim.kind == "speedup" else "≤ ") + SHOW[claim.kind](limit)


def row(results, case, claim):
    """(state, cells), or None for what this run did not ask for."""
    keys = [(case.name, side) for side in (claim.ours, claim.other) if side is not None]
    limits = [bound(claim, claim.must), bound(claim, claim.aim)]
    why = next((results.reasons[key] for key in keys if key in results.reasons), None)
    if why is not None:
        found = SHORT if why.startswith("failed") else SKIPPED
        return found, [claim.work, claim.against, "", "", "", *limits, f"{found}: {why}"]
    if any(key not in results.sides for key in keys):
        return None
    (_, ours), *rest = [results.sides[key] for key in keys]
    info, other = rest[0] if rest else ({}, None)
    timed = claim.kind in ("share", "speedup", "seconds")
    cells = [
        f"{in_units(t.least)} ({in_units(t.median)}, {in_units(t.spread)})" if t and timed else ""
        for t in (ours, other)
    ]
    if info.get("processors", 0.0) > 1.1:
        cells[1] += f", on {info['processors']:.1f} processors"
    value = figure(claim, ours.least, other and other.least)
    middle = figure(claim, ours.median, other and other.median)
    show = SHOW[claim.kind]
    told = f"{show(value)} ({show(middle)})" if timed else show(value)
    found = state(claim, value)
    return found, [claim.work, claim.against, *cells, told, *limits, found]


class Found(NamedTuple):
    """The rows of one group: those with a bound, with what stands beside them, and the others."""

    promised: list
    shown: list
    counts: Counter
    absent: int


def group_rows(results, group):
    found = Found([], [], Counter(), 0)
    for case in CASES:
        for claim in case.claims if case.group == group else ():
            told = row(results, case, claim)
            if told is None:
                found = found._replace(absent=found.absent + (claim.must is not None))
                continue
            if claim.must is not None:
                found.counts[told[0]] += 1
            promised = claim.must is not None or group in ("memory", "accuracy")
            (found.promised if promised else found.shown).append(told[1])
    return found


def tables(groups, which, header, drop=()):
    lines = []
    for group, found in groups.items():
        rows = [[x for k, x in enumerate(cells) if k not in drop] for cells in getattr(found, which)]
        if rows:
            lines += ["", f"### {GROUPS[group]}", "", *table(header, rows)]
    return lines


def counted(groups):
    """How many rows of each group are in which state."""
    states = (AIM, HOLDS, SHORT, SKIPPED)
    total = Counter()
    rows = []
    for group, found in groups.items():
        if found.counts:
            total += found.counts
            rows.append([GROUPS[group], *(found.counts[state] or "" for state in states)])
    rows.append(["**all**", *(f"**{total[state]}**" for state in states)])
    return table(["", *states], rows)


def kernels(results):
    """A table per operation and number of threads."""
    by_operation = {}
    for (entry, threads, name), (info, t) in results.kernels.items():
        _, floor = results.kernels[entry, threads, "floor"]
        base, numpy = (results.kernels.get((entry, 1, x), (None, None))[1] for x in ("seed", "numpy"))
        ratios = [f"{x.least / t.least:.3g}×" if x else "" for x in (base, numpy)]
        speed = f"{info['bytes'] / t.least / 1e9:.3g}"
        label = f"floor ({info['floor']})" if name == "floor" else name
        shape = " × ".join(map(str, info["shape"]))
        cells = [in_units(t.least), in_units(t.median), in_units(t.spread), *ratios, speed]
        line = [shape, info["dtype"], threads, label, *cells, f"{100 * floor.least / t.least:.3g} %"]
        by_operation.setdefault(info["operation"], []).append(line)
    header = ["shape", "dtype", "threads", "implementation", "min", "median", "IQR", "against seed"]
    header += ["against NumPy", "GB/s", "of the floor"]
    lines = []
    for operation, rows in by_operation.items():
        lines += ["", f"## {operation}", "", *table(header, rows)]
    return lines


ABOUT = """
One run.  What is compared was timed in turn, several times over; the figures are the least time, and in brackets the
median and the spread between the quartiles, over all rounds of all turns; of ratios that of the minima, and in brackets
that of the medians.  One thread each unless a row says two; outputs are allocated by the call, as a
user's would be, unless it says `out=`.  What each side returned was compared with the float64 reference before it was
timed, to within its dtype.  By the minima, a ratio below 1× says that fastalign is the slower one.

- *floor*: a read of the same bytes by the fastest of four loops, or a copy of as many bytes (read and written, each
  counted once) into memory that is already there, by as many threads.
- *NumPy, the curriculum's*: the formulas of the course, [tests/seed.py](../tests/seed.py): two temporaries of the size
  of the logits; PPO without metrics; DPO with accuracy and mean rewards.  *NumPy, in place*: the best we know NumPy to
  do ([baselines.py](baselines.py)): loss, gradients and the same metrics, in the arrays' own dtype, without masks.
- *peers*: each in a process of its own, on arrays of its own kind made beforehand; conversion is not timed.  PyTorch
  runs twice: as it comes, where each result of the size of the logits is made of fresh pages, and with an allocator
  that keeps them (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`).  JAX is started where it sees one processor: its
  flags do not hold it to one thread.  PPO and DPO by peers: loss and gradients, no metrics.  tianshou and rlax compute
  advantages only, tianshou in float64.

`FASTALIGN_ISA=avx2` on a wider processor holds NumPy, Numba and the peers to AVX2 as well.  What was tried and did not
help: [notes.md](notes.md).
"""


def write(folder: Path):
    """The report beside results.json; returns the rows that fall short, in lines for a terminal."""
    results = read(folder / "results.json")
    groups = {group: group_rows(results, group) for group in GROUPS}
    lines = ["# Benchmarks", "", *(f"- {name}: {value}" for name, value in results.machine.items()), ABOUT]
    promised = tables(groups, "promised", [*HEADER, "must be", "aim", "state"])
    if promised:
        absent = sum(found.absent for found in groups.values())
        lines += ["## Measures", "", *counted(groups), *(["", f"{absent} are not in this run."] if absent else [])]
        lines += [*promised, ""]
    shown = tables(groups, "shown", [*HEADER, ""], drop=(5, 6))
    if shown:
        lines += ["## More comparisons", "", "Without a bound; losses too.", *shown, ""]
    if results.kernels:
        plots.scaling(results.kernels, folder / "scaling.png")
        plots.roofline(results.kernels, folder / "roofline.png")
        lines += ["## Kernels", "", "Every kernel at every size, dtype and backend: [kernels.md](kernels.md).", ""]
        lines += ["![time against elements](scaling.png)", "", "![bandwidth against bytes](roofline.png)"]
        text = ["# Kernels", "", KERNELS.strip(), *kernels(results)]
        (folder / "kernels.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return short(groups)


def short(groups):
    """What falls short, a line each, and how many hold."""
    total = sum((found.counts for found in groups.values()), Counter())
    lines = [
        f"{cells[0]} | {cells[1] or '-'} | {cells[4] or cells[-1]} | {cells[5]}"
        for found in groups.values()
        for cells in found.promised
        if cells[-1].startswith(SHORT)
    ]
    told = f"{total[HOLDS] + total[AIM]} measures hold, {total[SHORT]} fall short, {total[SKIPPED]} are skipped"
    return [*(f"falls short: {line}" for line in lines), told]


KERNELS = """
Of the same run as the measures in [README.md](README.md), which says how it was timed.  *seed*: the curriculum's NumPy
code.  *numpy*: this package's NumPy backend.  Both use one thread; ratios are against that, by the minima.  *floor*: a
read of the same bytes where next to nothing is written, else a copy of as many bytes, by as many threads.  GB/s counts
the arrays read and written, each once.
"""
