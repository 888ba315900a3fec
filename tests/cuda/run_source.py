"""The kernels' source on every case, by gsim.  Prints {table entry: None or what failed} as JSON."""

import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # the plain-Python primitives

import json
import sys

import gsim
import numpy as np
from runs import TABLE, Run, check

ORDERS = ((1, None), (1 << 20, 1))


def launch(run: Run, blocks: int, seed: int | None) -> None:
    with np.errstate(all="ignore"):
        gsim.launch(run.make(*run.key), blocks, run.threads, *run.arguments, seed=seed)


def main() -> None:
    report = {}
    for name, runs in TABLE.items():
        report[name] = None
        try:
            for run in runs(False):
                check(run, launch, ORDERS)
        except Exception as error:
            report[name] = f"{type(error).__name__}: {error}"
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
