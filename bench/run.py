"""Run the suite and write its report.

python bench/run.py [--quick] [--output FOLDER] [options of pytest]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import narrow

HERE = Path(__file__).parent
PEERS = ("torch", "jax", "tianshou", "stable-baselines3", "rlax", "scipy")
# NumPy's BLAS: one thread, as everything else.
ONE = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def facts(seconds, arguments):
    from fastalign import system

    found = system.info()
    peers = {name: installed(name) for name in PEERS}
    built = found["extension"]["chosen"] or "no extension"
    return {
        "fastalign": f"{found['fastalign']}, {built}"
        + (", all others held to AVX2 too" if narrow.environment() else ""),
        "processor": f"{found['cpu']}, {os.cpu_count()} CPUs",
        "python": found["python"],
        "numpy, numba": f"{found['packages']['numpy']}, {found['packages']['numba']}",
        "peers": ", ".join(f"{name} {found or 'not installed'}" for name, found in peers.items()),
        "command": " ".join(["fastalign bench", *arguments]),
        "duration": f"{seconds:.0f} s",
    }


def refuse(line):
    sys.stderr.write(f"fastalign bench {line}\n")
    return 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="typical sizes in float32, fewer rounds, no peers")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the results")
    options, rest = parser.parse_known_args()
    lacking = [name for name in ("pytest", "pytest_benchmark") if find_spec(name) is None]
    if lacking:
        return refuse(f"needs {' and '.join(lacking)}: pip install pytest pytest-benchmark, or take make bench")
    folder = options.output.resolve()
    results = folder / "results.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results.unlink(missing_ok=True)
        results.touch()  # before minutes are spent
    except OSError as error:
        return refuse(f"cannot write to --output {options.output}: {error.strerror or error}")
    start = time.perf_counter()
    command = [
        sys.executable, "-m", "pytest", str(HERE), f"--rootdir={HERE}", "-c", str(HERE / "pytest.ini"), "-q", "-ra",
        "--benchmark-enable", "--benchmark-quiet", "--benchmark-save-data", f"--benchmark-json={results}",
        "--benchmark-warmup=off",
    ]  # fmt: skip
    own = {**os.environ, **ONE, **narrow.environment()}
    code = subprocess.run([*command, *(["--quick"] if options.quick else []), *rest], check=False, env=own).returncode
    if not results.exists() or not results.stat().st_size:
        results.unlink(missing_ok=True)
        sys.stderr.write("fastalign bench: nothing was measured\n")
        return code or 1
    data = json.loads(results.read_text())
    data["fastalign"] = facts(time.perf_counter() - start, sys.argv[1:])
    results.write_text(json.dumps(data))
    sys.path.append(str(HERE.parent / "tests"))
    import report

    sys.stdout.write("\n".join([*report.write(folder), f"{folder / 'README.md'}\n"]))
    return code


if __name__ == "__main__":
    sys.exit(main())
