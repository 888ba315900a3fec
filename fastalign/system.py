"""What this machine has and what fastalign makes of it."""

import os
import platform
import sys
from typing import Any

from . import dispatch, threads

PACKAGES = ("numpy", "numba", "llvmlite", "cython", "numba-cuda", "ml_dtypes", "torch", "cupy")


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # 30 ms that only a report needs

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """Family and model, too: a virtual machine may call processors of ten years alike."""
    facts: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                name, _, fact = line.partition(":")
                facts.setdefault(name.strip(), fact.strip())
    except OSError:
        pass
    found = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts and "model" in facts:
        found += f" (family {facts['cpu family']}, model {facts['model']})"
    return found


def _extension() -> dict[str, Any]:
    """The builds of the extension, which one is chosen, or why none is."""
    from .backends import cython_cpu

    reason = cython_cpu.why_not()
    return {
        "chosen": None if reason else cython_cpu.isa(),
        "why_not": reason,
        "usable": list(cython_cpu.isas()),
        "processor_runs": list(cython_cpu.supported()),
        "keeps_subnormals": cython_cpu.keeps_subnormals(),
    }


def info() -> dict[str, Any]:
    """Versions, processor, instruction set, backends with the reason where one is missing, threads."""
    from . import __version__

    count, source = threads.thread_count_and_source()
    backends = dispatch.available_backends()
    return {
        "fastalign": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "extension": _extension(),
        "backends": backends,
        "default_backend": os.environ.get("FASTALIGN_BACKEND")
        or next(name for name in dispatch.AUTOMATIC if backends[name] is None),
        "threads": {"count": count, "from": source},
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("FASTALIGN_")},
    }


def as_lines(facts: dict[str, Any]) -> list[str]:
    """The facts as aligned text."""
    extension, lines = facts["extension"], []
    for name in ("fastalign", "python", "platform", "cpu"):
        lines.append(f"{name:<18}{facts[name]}")
    lines += [f"{name:<18}{found or 'not installed'}" for name, found in facts["packages"].items()]
    lines.append(f"{'instruction set':<18}{extension['chosen'] or 'none: ' + extension['why_not']}")
    lines.append(f"{'  usable':<18}{', '.join(extension['usable']) or 'none'}")
    lines.append(f"{'  processor runs':<18}{', '.join(extension['processor_runs']) or 'unknown'}")
    kept = {True: "kept", False: "flushed to zero in this thread", None: "unknown"}[extension["keeps_subnormals"]]
    lines.append(f"{'  subnormals':<18}{kept}")
    for name, reason in facts["backends"].items():
        default = " (default)" if name == facts["default_backend"] else ""
        lines.append(f"{'backend ' + name:<18}{'usable' if reason is None else 'no: ' + reason}{default}")
    lines.append(f"{'threads':<18}{facts['threads']['count']} ({facts['threads']['from']})")
    lines += [f"{name:<18} = {value}" for name, value in facts["environment"].items()]
    return lines


def show_versions() -> None:
    """Print versions, processor, instruction set, backends and why not, threads: what a report of a fault should hold.

    >>> import fastalign
    >>> fastalign.show_versions()  # doctest: +ELLIPSIS
    fastalign ...
    """
    sys.stdout.write("\n".join(as_lines(info())) + "\n")
