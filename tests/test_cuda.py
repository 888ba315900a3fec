"""The CUDA backend where there is no GPU: its source, its machine code and its launches, each in a process of its own.

What runs there, and on which cases, is in tests/cuda/.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import need

import fastalign
from fastalign.backends import numba_cuda
from fastalign.backends.numba_cuda import memory
from fastalign.binding import FAMILIES, family
from fastalign.cases import OPERATIONS

HERE = Path(__file__).parent / "cuda"
CAPABILITIES = ("8.0", "9.0")
KERNELS = (
    *(f"row_{way} {kind}" for way in ("forward", "moments", "backward") for kind in ("f32", "f64", "f16", "bf16")),
    "first_bad_token",
    *(f"pointwise {name}" for name in FAMILIES),
    *(f"scan {kind}" for kind in family("scan")),
    "group_reduce",
    "group_spread",
)


def missing():
    """What the processes need and is not installed."""
    if importlib.util.find_spec("greenlet") is None:
        return "greenlet is not installed"
    return numba_cuda.device.FAILURE


class Jobs:
    """Processes that print a JSON report; started together, awaited where they are needed."""

    def __init__(self, folder):
        self.folder, self.started = folder, {}
        self.environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
        self.environment["PYTHONPATH"] = str(Path(fastalign.__file__).parent.parent)

    def start(self, *command):
        output = (self.folder / "-".join(command)).open("w+")
        process = subprocess.Popen(
            [sys.executable, *command], cwd=HERE, env=self.environment, stdout=output, stderr=subprocess.PIPE, text=True
        )
        self.started[command] = process, output

    def report(self, *command):
        if command not in self.started:
            self.start(*command)
        process, output = self.started[command]
        if not isinstance(process, str):
            _, errors = process.communicate(timeout=900)
            with output:
                output.seek(0)
                text = output.read()
            assert process.returncode == 0, f"{' '.join(command)}: {errors[-3000:]}"
            self.started[command] = text, None
        return json.loads(self.started[command][0])


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    need("cuda-sim", missing())
    jobs = Jobs(tmp_path_factory.mktemp("cuda"))
    for capability in CAPABILITIES:
        jobs.start("run_compiled.py", capability)
    yield jobs
    for process, output in jobs.started.values():
        if output is not None:
            process.kill()
            process.wait()
            process.stderr.close()
            output.close()


def sound(report, names):
    assert set(report) >= set(names), f"not run: {set(names) - set(report)}"
    assert {name: failure for name, failure in report.items() if failure is not None} == {}


def test_the_source_gives_what_the_reference_gives(jobs):
    """In two orders of threads, warp operations included, by gsim."""
    sound(jobs.report("run_source.py"), KERNELS)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_compiled_code_gives_what_the_reference_gives(jobs, capability):
    """Compiled for sm_80 and sm_90 without a driver; run on every case with every access checked, by ptxsim."""
    sound(jobs.report("run_compiled.py", capability), (*KERNELS, "element loops", "no calls"))


def test_the_public_functions_through_numbas_simulator(jobs):
    """Host arrays are staged; device arrays in give device arrays out."""
    sound(jobs.report("run_simulator.py"), (*OPERATIONS, "bad token", "a view"))


def test_the_interpreter_reports_seeded_faults(jobs):
    sound(jobs.report("faults.py"), ("clean", "a barrier removed", "output too short"))


# ---- arrays of other libraries, by stand-ins -------------------------------------------------------------------------


class Foreign:
    """An array of no known library on the device."""

    def __init__(self, shape=(2, 3), typestr="<f4", **more):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (4096, False),
            "version": 3,
            **more,
        }


def test_a_foreign_array_is_described_by_its_interface():
    given = memory.interface_of(Foreign(strides=(12, 4), stream=7))
    assert given["shape"] == (2, 3) and given["typestr"] == "<f4" and given["data"] == (4096, False)
    assert given["stream"] is None  # nothing is to block: the launch goes to the owner's stream


def test_a_length_of_one_and_no_elements_are_contiguous_with_any_stride():
    assert memory.interface_of(Foreign(shape=(1, 3), strides=(999, 4)))["strides"] is None
    assert memory.interface_of(Foreign(shape=(0, 3), strides=(7, 5)))["strides"] is None


@pytest.mark.parametrize(
    "more, error, text",
    [
        ({"strides": (4, 8)}, ValueError, r"shape \(2, 3\) is not C-contiguous"),
        ({"stream": 0}, ValueError, "names stream 0"),
        ({"mask": object()}, TypeError, "masked device array"),
    ],
)
def test_what_kernels_cannot_read_is_refused(more, error, text):
    with pytest.raises(error, match=text):
        memory.interface_of(Foreign(**more))


def make_tensor(dtype="torch.float32", is_cuda=True):
    class Tensor(Foreign):
        def __init__(self):
            super().__init__(typestr="<i2" if "16" in dtype else "<f4")
            self.is_cuda, self.dtype, self.device = is_cuda, dtype, SimpleNamespace(type="cuda", index=0)

        def detach(self):
            return self

        def view(self, _):
            return self

    Tensor.__module__ = "torch"
    return Tensor()


def test_torch_bfloat16_is_read_as_its_bits(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(int16="int16"))
    assert memory.interface_of(make_tensor("torch.bfloat16"))["typestr"] == "<u2"
    assert memory.interface_of(make_tensor())["typestr"] == "<f4"
    with pytest.raises(TypeError, match="not a device array"):
        memory.interface_of(make_tensor(is_cuda=False))


def test_the_stream_is_the_one_its_library_works_on(monkeypatch):
    driver = SimpleNamespace(
        external_stream=lambda pointer: ("external", pointer),
        legacy_default_stream=lambda: "legacy",
        per_thread_default_stream=lambda: "per thread",
    )
    monkeypatch.setattr(memory, "cuda", driver)
    monkeypatch.setattr(memory, "SIMULATED", False)
    for pointer, stream in ((None, 0), (1, "legacy"), (2, "per thread"), (77, ("external", 77))):
        assert memory.stream_of(Foreign(stream=pointer)) == stream
    torch = SimpleNamespace(cuda=SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=88)))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert memory.stream_of(make_tensor()) == ("external", 88)
    assert memory.stream_for([Foreign(), Foreign(stream=5)]) == ("external", 5)
    with numba_cuda.on_stream(99):
        assert memory.stream_for([Foreign(stream=5)]) == ("external", 99)
    assert memory.stream_for([]) == 0


def test_a_device_array_is_not_taken_to_the_host():
    with pytest.raises(ValueError, match="lies on a device"):
        fastalign.kl_estimate(np.zeros(3), Foreign(shape=(3,)), backend="cython")


# ---- without a device ------------------------------------------------------------------------------------------------


def test_why_not_is_a_reason():
    reason = fastalign.available_backends()["cuda"]
    assert reason is None or (isinstance(reason, str) and reason)
    if reason is not None:
        with pytest.raises(RuntimeError, match="backend 'cuda' cannot be used"):
            fastalign.kl_estimate(np.zeros(3), np.zeros(3), backend="cuda")


def test_without_numba_the_reason_is_told():
    code = "import sys; sys.modules['numba'] = None\nimport fastalign; print(fastalign.available_backends()['cuda'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not importable" in done.stdout
