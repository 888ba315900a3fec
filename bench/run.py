"""Run the suite and write its report.

python bench/run.py [--quick] [--output FOLDER] [options of pytest]
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import pytest
import report

from fastalign import system

HERE = Path(__file__).parent


def facts(seconds):
    found = system.info()
    return {
        "fastalign": f"{found['fastalign']}, {found['extension']['chosen'] or 'no extension'}",
        "processor": f"{found['cpu']}, {os.cpu_count()} CPUs",
        "python": found["python"],
        "numpy, numba": f"{found['packages']['numpy']}, {found['packages']['numba']}",
        "command": " ".join(["fastalign bench", *sys.argv[1:]]),
        "duration": f"{seconds:.0f} s",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="typical sizes in float32, fewer rounds")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the results")
    options, rest = parser.parse_known_args()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    results.unlink(missing_ok=True)
    start = time.perf_counter()
    command = [
        str(HERE), f"--rootdir={HERE}", "-c", str(HERE / "pytest.ini"), "-q", "--benchmark-enable", "--benchmark-quiet",
        "--benchmark-save-data", f"--benchmark-json={results}", "--benchmark-warmup=off",
    ]  # fmt: skip
    code = pytest.main([*command, *(["--quick"] if options.quick else []), *rest])
    if not results.exists() or not results.stat().st_size:
        sys.stderr.write("fastalign bench: nothing was measured\n")
        return int(code) or 1
    data = json.loads(results.read_text())
    data["fastalign"] = facts(time.perf_counter() - start)
    results.write_text(json.dumps(data))
    short = report.write(folder)
    sys.stdout.write(f"{folder / 'README.md'}: {short} measure(s) fall short\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
