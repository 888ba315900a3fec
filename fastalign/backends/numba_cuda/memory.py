"""Device arrays of any library, by __cuda_array_interface__, and the stream to work on.

Nothing is imported but Numba: an object that comes from torch or CuPy has brought its library along.

Both have a current stream, which their interface does not tell (torch) or makes Numba wait for (CuPy): kernels are
launched on it instead.  An array wrapped here leads back to its owner, so that its views find the stream too.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from .device import SIMULATED, cuda

_stream: ContextVar[Any] = ContextVar("fastalign_stream", default=None)


def owner_of(x: Any) -> Any:
    """The object that an array made by ``wrap`` shows the memory of; ``x`` itself for any other."""
    memory = getattr(x, "gpu_data", None) if getattr(x, "__cuda_ndarray__", False) else None
    owner = getattr(memory, "owner", None)
    return owner if hasattr(owner, "__cuda_array_interface__") else x


def library_of(x: Any) -> str:
    """ "torch", "cupy", or "" for any other library."""
    roots = {c.__module__.partition(".")[0] for c in type(x).__mro__}
    return "torch" if "torch" in roots else "cupy" if "cupy" in roots else ""


def interface_of(x: Any) -> dict[str, Any]:
    """The checked __cuda_array_interface__ of ``x``: C-contiguous, unmasked; bfloat16 as the bits, uint16."""
    library, bits = library_of(x), False
    if library == "torch":
        if not x.is_cuda:
            raise TypeError(f"a torch tensor on {x.device} is not a device array")
        x = x.detach()  # the interface refuses tensors that require grad
        bits = str(x.dtype) == "torch.bfloat16"
        x = x.view(sys.modules["torch"].int16) if bits else x
    interface = dict(x.__cuda_array_interface__)
    if interface.get("mask") is not None:
        raise TypeError("a masked device array; pass its data and mask=")
    if interface.get("stream") == 0:
        raise ValueError("the __cuda_array_interface__ names stream 0, which it forbids")
    shape, dtype = tuple(interface["shape"]), np.dtype("<u2" if bits else interface["typestr"])
    if not _contiguous(shape, interface.get("strides"), dtype.itemsize):
        raise ValueError(f"a device array of shape {shape} is not C-contiguous; copy it with its own library")
    # Without a stream Numba does not block the host: the launch goes to the owner's.
    interface.update(shape=shape, typestr=dtype.str, strides=None, stream=None)
    return interface


def _contiguous(shape: tuple[int, ...], strides: Any, step: int) -> bool:
    if strides is None or 0 in shape:
        return True
    for length, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    return True


def wrap(x: Any) -> Any:
    """Any device array as one of Numba's, over the same memory."""
    if getattr(x, "__cuda_ndarray__", False):
        if not x.is_c_contiguous():
            raise ValueError(f"a device array of shape {x.shape} is not C-contiguous")
        return x
    interface = interface_of(x)
    device = getattr(x, "device", None)
    index = getattr(device, "index" if library_of(x) == "torch" else "id", None)
    if index is not None and index != cuda.get_current_device().id:
        raise ValueError(f"an array lies on device {index}; make it current first: numba.cuda.select_device({index})")
    return cuda.from_cuda_array_interface(interface, owner=x, sync=False)


def stream_of(x: Any) -> Any:
    """The stream on which ``x`` is ready: its library's current one, or the one its interface names."""
    if SIMULATED:
        return 0
    owner = owner_of(x)
    library = library_of(owner)
    if library == "torch":
        return _as_stream(sys.modules["torch"].cuda.current_stream(owner.device).cuda_stream)
    if library == "cupy":
        return _as_stream(sys.modules["cupy"].cuda.get_current_stream().ptr)
    if getattr(owner, "__cuda_ndarray__", False):
        return owner.stream
    return _as_stream(owner.__cuda_array_interface__.get("stream"))


def _as_stream(pointer: int | None) -> Any:
    if pointer is None or pointer == 0:
        return 0
    if pointer == 1:
        return cuda.legacy_default_stream()
    if pointer == 2:
        return cuda.per_thread_default_stream()
    return cuda.external_stream(pointer)


@contextmanager
def on_stream(stream: Any) -> Iterator[None]:
    """Copies and kernels of this thread or task go to ``stream``: Numba's, or a pointer."""
    token = _stream.set(_as_stream(stream) if isinstance(stream, int) else stream)
    try:
        yield
    finally:
        _stream.reset(token)


def stream_for(arrays: Any) -> Any:
    """The stream asked for, else that of the first array that has one, else the default."""
    asked = _stream.get()
    if asked is not None:
        return asked
    return next((s for s in map(stream_of, arrays) if s != 0), 0)


def to_device(x: np.ndarray, stream: Any = None) -> Any:
    """A copy on the device, ready on every stream when this returns."""
    stream = stream_for(()) if stream is None else stream
    copy = cuda.to_device(np.ascontiguousarray(x), stream=stream)
    _wait(stream)
    copy.stream = 0
    return copy


def to_host(x: Any, stream: Any = None) -> np.ndarray:
    """A copy on the host, after all work on the array's stream."""
    array = wrap(x)
    stream = stream_for((x,)) if stream is None else stream
    copy = array.copy_to_host(stream=stream)
    _wait(stream)
    return copy


def _wait(stream: Any) -> None:
    if stream == 0:
        stream = None if SIMULATED else cuda.default_stream()
    if stream is not None:
        stream.synchronize()


def empty(shape: Any, dtype: Any, like: Any = None) -> Any:
    """An uninitialised array on the device, of the library of ``like``; bits of bfloat16 as torch's bfloat16."""
    dtype = np.dtype(dtype)
    owner = owner_of(like)
    library = library_of(owner)
    if library == "torch":
        torch = sys.modules["torch"]
        half = dtype == np.uint16 and owner.dtype == torch.bfloat16
        return torch.empty(shape, dtype=torch.bfloat16 if half else getattr(torch, dtype.name), device=owner.device)
    if library == "cupy":
        return sys.modules["cupy"].empty(shape, dtype)
    return cuda.device_array(shape, dtype)
