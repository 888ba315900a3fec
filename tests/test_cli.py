"""The commands: what they print, and what they answer to a shell."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from conftest import usable
from trees import ROOT, environment

import fastalign
from fastalign import system, verify
from fastalign.cases import OPERATIONS

typer = pytest.importorskip("typer")
from typer.testing import CliRunner  # noqa: E402

from fastalign.cli import commands  # noqa: E402


def run(*arguments):
    return CliRunner().invoke(commands, list(arguments))


def shell(*arguments, code="from fastalign.__main__ import main; main()", **changes):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment(**changes)
    )


def test_help_names_every_command_and_option():
    told = run("--help").output
    for name in ("demo", "bench", "info", "verify"):
        assert name in told
        assert run(name, "--help").exit_code == 0
    for option in ("--data", "--seed", "--quick", "--plot"):
        assert option in run("demo", "--help").output
    assert run("--version").output.strip() == fastalign.__version__
    assert run("nonsense").exit_code == 2


def test_info_and_its_json_and_show_versions_tell_the_same(capsys):
    told = json.loads(run("info", "--json").output)
    assert told["fastalign"] == fastalign.__version__
    assert told["backends"] == fastalign.available_backends()
    assert told["threads"]["count"] == fastalign.get_num_threads()
    assert set(told["extension"]) >= {"chosen", "usable", "processor_runs", "why_not"}
    assert f"{'  usable':<18}{', '.join(told['extension']['usable']) or 'none'}" in system.as_lines(told)
    assert run("info").output.splitlines() == system.as_lines(told)
    fastalign.show_versions()
    assert capsys.readouterr().out == run("info").output


def test_info_tells_the_environment(monkeypatch):
    monkeypatch.setenv("FASTALIGN_NUM_THREADS", "3")
    told = run("info").output
    assert "3 (FASTALIGN_NUM_THREADS)" in told and "FASTALIGN_NUM_THREADS = 3" in told.splitlines()


SCRIPT = "import sys\nfrom fastalign.__main__ import main\nsys.exit(main())\n"


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("FASTALIGN_BACKEND", "foo", "one of 'cython', 'numba', 'numpy', 'cuda'"),
        ("FASTALIGN_ISA", "foo", "one of baseline, avx2, avx512"),
        ("FASTALIGN_NUM_THREADS", "x", "a positive integer"),
        ("FASTALIGN_NUMBA_CACHE", "yes", "0 or 1"),
    ],
)
def test_a_wrong_variable_is_a_line_and_not_a_traceback(tmp_path, name, value, expected):
    """However the command is called; a program that imports the package has its traceback."""
    for file in ("fastalign", "program.py"):
        (tmp_path / file).write_text(SCRIPT)
    own = {**environment(**{name: value}), "PYTHONPATH": str(ROOT)}
    line = f"{name} is {value!r}; expected {expected}\n"
    all_of_them = [["-m", "fastalign", command] for command in ("demo", "verify", "bench", "--help")]
    ways = ["-m", "fastalign"], ["-B", "-mfastalign", "info"], ["-m", "fastalign.__main__", "info"]
    for way in (*all_of_them, *ways, [str(tmp_path / "fastalign"), "info"]):
        done = subprocess.run([sys.executable, *way], capture_output=True, text=True, env=own)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"fastalign: {line}"), way
    for way in ([str(tmp_path / "program.py"), "fastalign"], ["-c", SCRIPT, "-m", "fastalign"]):
        done = subprocess.run([sys.executable, *way], capture_output=True, text=True, env=own)
        assert done.returncode == 1 and done.stderr.endswith(f"ValueError: {line}") and "Traceback" in done.stderr


def test_a_demo_of_a_backend_that_cannot_be_used_is_a_line():
    if fastalign.available_backends()["cuda"] is None:
        pytest.skip("there is a CUDA device")
    done = shell("demo", "--quick", FASTALIGN_BACKEND="cuda")
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert done.stderr.startswith("fastalign: FASTALIGN_BACKEND: backend 'cuda' cannot be used: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("command", [["info"], ["--help"], ["--version"]])
def test_a_full_disk_is_a_line_and_not_a_traceback(command):
    for buffered in ("", "1"):  # what is written at once, and what is at the end
        own = {**environment(), "PYTHONUNBUFFERED": buffered}
        with open("/dev/full", "w") as full:
            run = [sys.executable, "-m", "fastalign", *command]
            done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, env=own)
        assert done.returncode == 1
        assert done.stderr == f"fastalign: cannot write: {os.strerror(errno.ENOSPC)}\n"


def test_without_the_extra_every_command_names_what_is_in_it():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cli"]
    remedy = f"pip install {' '.join(re.match('[a-z]+', name)[0] for name in extra)}\n"
    code = "import sys; sys.modules[{!r}] = None\nfrom fastalign.__main__ import main; main()"
    for name in ("typer", "rich"):
        for command in (["info"], ["demo"], []):
            done = shell(*command, code=code.format(name))
            assert done.returncode == 2 and not done.stdout
            assert done.stderr.count("\n") == 1 and done.stderr.endswith(remedy)


def test_show_versions_needs_no_extra():
    done = shell(code="import sys; sys.modules['typer'] = None; import fastalign; fastalign.show_versions()")
    assert done.returncode == 0 and "backend numpy" in done.stdout


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="no SIGINT here")
def may_be_interrupted():
    """What a shell runs behind itself ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_is_130_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastalign", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=may_be_interrupted,
    )
    try:
        assert "reward model" in process.stderr.readline()  # the first stage has begun
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130 and "Traceback" not in out + errors


LOST = """
import sys, time
from fastalign.__main__ import heed_interrupts

class Garbage:
    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error

heed_interrupts()
Garbage(ValueError("told"))
try:
    Garbage(KeyboardInterrupt)
    time.sleep(30)
    print("lost")
except KeyboardInterrupt:
    print("heeded")
"""


def test_an_interrupt_within_a_callback_is_not_lost():
    command = [sys.executable, "-c", LOST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=may_be_interrupted)
    assert done.stdout == "heeded\n"
    assert "ValueError: told" in done.stderr and "KeyboardInterrupt" not in done.stderr


def test_verify_agrees_on_every_host_backend(monkeypatch):
    usable("cython")
    monkeypatch.setattr(verify, "SHAPES", {kind: {"odd": (5, 7) if kind == "row" else (7,) if kind in ("scan", "pointwise") else (3, 7)} for kind in verify.SHAPES})  # fmt: skip  # noqa: E501
    done = run("verify", "--backend", "cython", "--backend", "numpy")
    assert done.exit_code == 0, done.output
    table = done.stdout
    assert "numpy" in table and "agree with the reference" in table and "differ" not in table
    for isa in verify.cython_cpu.isas():
        assert f"cython/{isa}" in table


def test_verify_restores_the_choice_of_instruction_set(monkeypatch):
    usable("cython")
    monkeypatch.setenv("FASTALIGN_ISA", "baseline")
    for _ in verify.verify(["cython/baseline"]):
        pass
    assert os.environ["FASTALIGN_ISA"] == "baseline"
    verify.cython_cpu.core.cache_clear()


def test_verify_finds_a_wrong_kernel(monkeypatch):
    usable("cython")
    from fastalign.backends import reference

    def wrong(*arguments):
        reference.group_reduce(*arguments)
        arguments[4][...] += 1e-3

    monkeypatch.setattr(verify.cython_cpu, "group_reduce", wrong)
    monkeypatch.setattr(verify.cython_cpu, "isas", lambda: ("baseline",))
    found = list(verify.verify(["cython/baseline"]))
    assert {f.operation for f in found} == set(OPERATIONS)
    on_sums = {name for name in OPERATIONS if name.startswith("sequence_log_probs")}
    assert {f.operation for f in found if f.failure} == on_sums
    done = run("verify", "--backend", "cython")
    assert done.exit_code == 1 and f"{len(on_sums)} kernels differ" in done.output
    assert "sequence_log_probs-sum" in done.stderr
    verify.cython_cpu.core.cache_clear()


def test_verify_of_what_cannot_be_used():
    reason = fastalign.available_backends()["cuda"]
    if reason is None:
        pytest.skip("there is a CUDA device")
    done = run("verify", "--backend", "cuda")
    assert done.exit_code == 1 and "not usable" in done.output
    assert run("verify", "--backend", "tpu").exit_code == 2


def test_bench_outside_a_clone_says_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr("fastalign.cli.BENCH", tmp_path)
    done = run("bench")
    assert done.exit_code == 2 and "make bench" in done.output


def test_bench_says_what_it_lacks(tmp_path):
    code = "import run, sys; sys.modules['pytest_benchmark'] = None; sys.exit(run.main())"
    done = shell("--output", str(tmp_path), "--collect-only", code=code, PYTHONPATH=str(ROOT / "bench"))
    assert done.returncode == 2 and done.stderr.startswith("fastalign bench needs pytest_benchmark: pip install")


def bench_reports(folder, which):
    """README.md and kernels.md of a quick run of the benchmarks that ``which`` names."""
    done = subprocess.run(
        [sys.executable, "-m", "fastalign", "bench", "--quick", "--output", str(folder), "-k", which],
        cwd=ROOT, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [
        (folder / name).read_text(encoding="utf-8") for name in ("README.md", "kernels.md") if (folder / name).exists()
    ]


@pytest.mark.parametrize("taken", ["", "results.json"])
def test_bench_that_cannot_write_says_so_before_it_measures(tmp_path, taken):
    """A file where the folder should be, or a folder where the file should be."""
    if taken:
        (tmp_path / "there" / taken).mkdir(parents=True)
    else:
        (tmp_path / "there").write_text("")
    done = shell("bench", "--output", str(tmp_path / "there"))
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"fastalign bench cannot write to --output {tmp_path / 'there'}: ")
    assert done.stderr.count("\n") == 1


def test_bench_measures_and_reports(tmp_path):
    """One kernel, one thread: the files, the tables, the pictures."""
    summary, report = bench_reports(tmp_path, "k1 and 1t")
    usable("cython")
    for name in ("floor (copy)", "numpy", "cython", "numba"):
        assert f"| {name} |" in report
    assert "## kl_estimate-k1" in report and "(kernels.md)" in summary
    for picture in ("scaling.png", "roofline.png"):
        assert (tmp_path / picture).stat().st_size > 1000 and f"({picture})" in summary
    data = json.loads((tmp_path / "results.json").read_text())
    assert {b["extra_info"]["implementation"] for b in data["benchmarks"]} >= {"floor", "numpy", "cython", "numba"}


def test_bench_times_what_is_promised(tmp_path):
    (report,) = bench_reports(tmp_path, "measure and (first or 128_x_4)")
    first, share = (
        next(line for line in report.splitlines() if work in line) for work in ("first call of gae", "into out=")
    )
    assert "| ≤ 20 ms |" in first and "copy of the same arrays" in share
    assert all(line.rstrip(" |").endswith(("holds", "aim met", "**falls short**")) for line in (first, share))
