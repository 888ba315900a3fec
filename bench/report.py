"""results.json of pytest-benchmark as README.md tables and a picture."""

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds of one call, over all rounds of all turns."""

    least: float
    median: float
    spread: float  # between the quartiles

    @classmethod
    def of(cls, seconds):
        low, median, high = np.percentile(seconds, (25, 50, 75))
        return cls(float(np.min(seconds)), float(median), float(high - low))


def read(path):
    """(info, {key: (extra_info, Timing)}) with the turns of each implementation joined."""
    data = json.loads(path.read_text())
    joined, infos = defaultdict(list), {}
    for found in data["benchmarks"]:
        info = found["extra_info"]
        key = (info["measure"], info["side"]) if "measure" in info else tuple(
            info[name] for name in ("entry", "threads", "implementation")
        )  # fmt: skip
        joined[key] += info.get("told") or found["stats"]["data"]
        infos[key] = info
    return data, {key: (infos[key], Timing.of(joined[key])) for key in joined}


def in_units(seconds):
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def measures(timings):
    """What is promised, what was found, and whether it holds."""
    rows = []
    names = dict.fromkeys(key[0] for key in timings if len(key) == 2)
    for name in names:
        info, ours = timings[name, "ours"]
        base = timings.get((name, "baseline"), (None, None))[1]
        cells = [f"{in_units(ours.least)} ({in_units(ours.median)})"]
        cells.append(f"{in_units(base.least)} ({in_units(base.median)})" if base else "")
        if info["least"] is not None:
            value, must = base.least / ours.least, info["least"]
            middle = base.median / ours.median
            rows.append([name, *cells, f"{value:.3g}× ({middle:.3g}×)", f"≥ {must:g}×", mark(value >= must)])
        else:
            value, must = ours.least - (base.least if base else 0.0), info["most"]
            middle = ours.median - (base.median if base else 0.0)
            result = f"{in_units(value)} ({in_units(middle)})"
            rows.append([name, *cells, result, f"< {in_units(must)}", mark(value < must)])
    return table(["measure", "fastalign", "baseline", "result", "must be", ""], rows) if rows else []


def mark(holds):
    return "holds" if holds else "**falls short**"


def kernels(timings):
    """A table per operation and number of threads."""
    entries = defaultdict(dict)
    for key, (info, timing) in timings.items():
        if len(key) == 3:
            entries[key[0], key[1]][key[2]] = info, timing
    by_operation = defaultdict(list)
    for (entry, threads), found in entries.items():
        info, floor = found["floor"]
        numpy = timings.get((entry, 1, "numpy"), (None, None))[1]
        base = timings.get((entry, 1, "seed"), (None, None))[1]
        for name, (_, t) in found.items():
            ratios = [f"{x.least / t.least:.3g}×" if x else "" for x in (base, numpy)]
            speed = f"{info['bytes'] / t.least / 1e9:.3g}"
            label = f"floor ({info['floor']})" if name == "floor" else name
            shape = " × ".join(map(str, info["shape"]))
            cells = [in_units(t.least), in_units(t.median), in_units(t.spread), *ratios, speed]
            row = [shape, info["dtype"], threads, label, *cells, f"{100 * floor.least / t.least:.3g} %"]
            by_operation[info["operation"]].append(row)
    header = ["shape", "dtype", "threads", "implementation", "min", "median", "IQR", "against seed"]
    header += ["against NumPy", "GB/s", "of the floor"]
    lines = []
    for operation, rows in by_operation.items():
        lines += ["", f"### {operation}", "", *table(header, rows)]
    return lines


ABOUT = """
One call, outputs allocated by it as a user's would be; min, median and spread (between the quartiles) over all rounds
of all turns.  What is compared was timed in turn, in one run; of the kernels, what each backend returned was checked
against the float64 reference first.  *seed*: the curriculum's NumPy code.  *numpy*: this package's NumPy backend.  Both
use one thread; ratios are against that, by the minima, and below 1× fastalign is the slower one.  *floor*: a read of
the same bytes where next to nothing is written, else a copy of as many bytes, into memory that is already there, by as
many threads.  GB/s counts the arrays read and written, each once.
"""


def draw(timings, path):
    """How many times as fast as NumPy, and how near the floor, at the typical size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    chosen = {
        (info["entry"], key[2]): timing
        for key, (info, timing) in timings.items()
        if len(key) == 3 and key[1] == 1 and info["size"] in ("typical", "one stream") and info["dtype"] == "float32"
    }
    entries = list(dict.fromkeys(entry for entry, _ in chosen))
    names = [n for n in dict.fromkeys(n for _, n in chosen) if n not in ("floor", "seed", "numpy")]
    figure = Figure(figsize=(11, 0.45 * len(entries) + 1.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(len(entries))
    for k, name in enumerate(names):
        offset = (k - (len(names) - 1) / 2) * 0.8 / len(names)
        times = np.array([chosen[entry, name].least for entry in entries])
        for panel, other in ((left, "numpy"), (right, "floor")):
            ratios = np.array([chosen[entry, other].least for entry in entries]) / times
            panel.barh(at + offset, ratios, 0.8 / len(names), label=name)
    left.set(yticks=at, yticklabels=entries, xscale="log", xlabel="times as fast as NumPy, one thread")
    left.set_xlim(left=min(0.1, left.get_xlim()[0]))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter(NullFormatter())
    left.axvline(1, color="grey", linewidth=0.8)
    right.set(xlabel="fraction of the machine's floor")
    right.axvline(1, color="grey", linewidth=0.8)
    left.invert_yaxis()
    right.legend(frameon=False)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def write(folder: Path):
    """README.md and speed.png beside results.json; returns how many measures fall short."""
    data, timings = read(folder / "results.json")
    machine = data["fastalign"]
    lines = ["# Benchmarks", "", *(f"- {name}: {value}" for name, value in machine.items()), ABOUT]
    promised = measures(timings)
    if promised:
        lines += ["## Measures", "", "One thread; min (median).", "", *promised, ""]
    tables = kernels(timings)
    if tables:
        lines += ["## Kernels", "", "![speed](speed.png)", *tables]
        draw(timings, folder / "speed.png")
    (folder / "README.md").write_text("\n".join(lines) + "\n")
    return sum("falls short" in line for line in promised)
