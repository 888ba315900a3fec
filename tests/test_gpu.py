"""On a GPU: every operation, shape and dtype, with arrays of the host, of Numba, of torch and of CuPy.

Skipped without a GPU; tests/test_cuda.py has what can be run there.
"""

import importlib

import numpy as np
import pytest
from conftest import usable
from test_backends import GRID, agree, inputs

import fastalign
from fastalign.cases import OPERATIONS, truth

usable("cuda")


@pytest.mark.parametrize("name, label, dtype, masked", GRID)
def test_agrees_with_the_float64_reference(name, label, dtype, masked):
    operation, arguments = inputs(name, label, dtype, masked)
    agree(name, dtype, operation.call(arguments, "cuda"), truth(operation, arguments))


# ---- arrays on the device --------------------------------------------------------------------------------------------


def to_numba(x, bits=False):
    return importlib.import_module("numba.cuda").to_device(x)


def to_torch(x, bits=False):
    torch = importlib.import_module("torch")
    return torch.from_numpy(x.view(np.int16)).cuda().view(torch.bfloat16) if bits else torch.from_numpy(x).cuda()


def to_cupy(x, bits=False):
    return importlib.import_module("cupy").asarray(x)


def to_host(x):
    if hasattr(x, "copy_to_host"):
        return x.copy_to_host()
    if hasattr(x, "cpu"):
        torch = importlib.import_module("torch")
        return x.view(torch.int16).cpu().numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.cpu().numpy()
    return x.get() if hasattr(x, "get") else x


LIBRARIES = {"numba": to_numba, "torch": to_torch, "cupy": to_cupy}


@pytest.fixture(params=LIBRARIES)
def place(request):
    """A copy on the device, as an array of one library."""
    pytest.importorskip(request.param)
    put = LIBRARIES[request.param]

    def place(x, bits=False):
        if not isinstance(x, np.ndarray):
            return x
        return put(x.astype(np.uint8) if x.dtype == bool and request.param == "numba" else x, bits)

    return place


def placed(place, dtype, arguments):
    return {k: place(x, dtype == "bfloat16" and k.endswith("logits")) for k, x in arguments.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_arrays_on_the_device_stay_there(place, name, dtype):
    operation = OPERATIONS[name]
    if dtype in ("float16", "bfloat16") and operation.shape != "row":
        pytest.skip("only logits may be halves")
    shape = {"row": (9, 1300), "scan": (33, 70), "pointwise": (5000,), "group": (9, 7)}[operation.shape]
    arguments = operation.make(np.random.default_rng(11), shape, dtype, True)
    there = placed(place, dtype, arguments)
    results = operation.call(there, None)
    assert {type(x) for x in results} - {float} <= {type(there[operation.reads[0]])}
    agree(name, dtype, tuple(map(to_host, results)), truth(operation, arguments))
    again = operation.call(there, None)
    for x, y in zip(results, again, strict=True):
        np.testing.assert_array_equal(to_host(x), to_host(y))


def test_a_bad_token_is_named(place):
    logits, tokens = np.zeros((3, 45), np.float32), np.array([0, 44, 45])
    with pytest.raises(IndexError, match=r"tokens\[2\]"):
        fastalign.token_log_probs(place(logits), place(tokens))


def test_a_gradient_in_place(place):
    arguments = OPERATIONS["token_log_probs_grad"].make(np.random.default_rng(1), (64, 4000), "float32", True)
    want = fastalign.token_log_probs_grad(**arguments, backend="numpy")
    there = placed(place, "float32", arguments)
    got = fastalign.token_log_probs_grad(**there, out=there["logits"])
    assert got is there["logits"]
    np.testing.assert_allclose(to_host(got), want, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_work_follows_the_current_stream_of_the_library(library):
    """The logits are made on a stream that is busy: whoever does not wait for it reads what was there before."""
    module = pytest.importorskip(library)
    rng = np.random.default_rng(2)
    host, tokens = rng.standard_normal((512, 4096)).astype(np.float32), rng.integers(0, 4096, 512)
    want = fastalign.token_log_probs(host, tokens, backend="numpy").logp
    put = LIBRARIES[library]
    source, logits, ids = put(host), put(np.zeros_like(host)), put(tokens)
    busy = put(rng.standard_normal((4096, 4096)).astype(np.float32))
    fastalign.token_log_probs(logits, ids)  # compiled
    stream = module.cuda.Stream() if library == "torch" else module.cuda.Stream(non_blocking=True)
    context = module.cuda.stream(stream) if library == "torch" else stream
    with context:
        for _ in range(20):
            busy = busy @ busy
            busy = busy / abs(busy).max()
        logits[:] = source
        got = fastalign.token_log_probs(logits, ids).logp
        got = to_host(got)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
