"""results.json of pytest-benchmark, with the turns of each implementation joined; units and tables of the reports."""

import json
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds of one call, over all rounds of all turns; or figures of another kind."""

    least: float
    median: float
    spread: float  # between the quartiles

    @classmethod
    def of(cls, figures):
        low, median, high = np.percentile(figures, (25, 50, 75))
        return cls(float(np.min(figures)), float(median), float(high - low))


class Results(NamedTuple):
    machine: dict[str, str]
    sides: dict[tuple[str, str], tuple[dict, Timing]]  # of the measures, by case and side
    kernels: dict[tuple[str, int, str], tuple[dict, Timing]]  # by entry, threads and implementation
    reasons: dict[tuple[str, str], str]  # why a side has no figure


def read(path):
    data = json.loads(path.read_text())
    joined, infos = defaultdict(list), {}
    for found in data["benchmarks"]:
        info = found["extra_info"]
        key: Any = (info["case"], info["side"]) if "case" in info else tuple(
            info[name] for name in ("entry", "threads", "implementation")
        )  # fmt: skip
        joined[key] += info.get("told") or found["stats"]["data"]
        infos[key] = info
    timings = {key: (infos[key], Timing.of(joined[key])) for key in joined}
    sides = {key: found for key, found in timings.items() if len(key) == 2}
    kernels = {key: found for key, found in timings.items() if len(key) == 3}
    reasons = {(case, side): why for case, side, why in data.get("reasons", ())}
    return Results(data["fastalign"], sides, kernels, reasons)


def in_units(seconds):
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(seconds) * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]
