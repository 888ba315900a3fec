"""The pictures of the report: time against elements, and bandwidth against bytes."""

import math

from fastalign.cases import OPERATIONS

STYLE = {
    "numpy": ("NumPy backend", "tab:gray", "s"),
    "seed": ("the curriculum's NumPy", "tab:red", "D"),
    "numba": ("Numba", "tab:orange", "^"),
    "cython": ("Cython", "tab:blue", "o"),
    "floor": ("floor", "black", None),
}


def _figure(rows, columns, height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def _lines(panel, found, joined):
    """A panel with both axes logarithmic; ``joined``: lines between the points."""
    from matplotlib.ticker import NullFormatter

    for name, (label, colour, marker) in STYLE.items():
        points = sorted(found.get(name, ()))
        if points:
            line = "--" if name == "floor" else "-" if joined else "none"
            alone = "_" if name == "floor" and len({x for x, _ in points}) == 1 else marker
            x, y = zip(*points, strict=True)
            panel.plot(x, y, linestyle=line, marker=alone, color=colour, label=label, markersize=4, linewidth=1)
    panel.set(xscale="log", yscale="log")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _panels(titled, labels, joined, path):
    """Three panels to a row."""
    if not titled:
        return
    rows = -(-len(titled) // 3)
    figure, axes = _figure(rows, min(3, len(titled)), 3 * rows)
    for panel, (title, found) in zip(axes, titled, strict=False):
        _lines(panel, found, joined)
        panel.set(title=title, xlabel=labels[0], ylabel=labels[1])
    for panel in axes[len(titled) :]:
        panel.set_visible(False)
    found = {label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found), frameon=False)
    figure.savefig(path, dpi=100)


def _single(kernels):
    """One thread, float32: operation, implementation, info, timing."""
    for (_, threads, name), (info, timing) in kernels.items():
        if threads == 1 and info["dtype"] == "float32":
            yield info["operation"], name, info, timing


def scaling(kernels, path):
    """Seconds of a call against elements: one operation of each family of losses, and the scans."""
    panels = {}
    for operation, name, info, timing in _single(kernels):
        if OPERATIONS[operation].shape in ("pointwise", "scan"):
            first, found = panels.setdefault(operation.partition("-")[0], (operation, {}))
            if first == operation:
                found.setdefault(name, []).append((math.prod(info["shape"]), timing.least))
    _panels(list(panels.values()), ("elements", "seconds of a call"), True, path)


def roofline(kernels, path):
    """GB/s against the bytes of a call, under what the machine reads or copies."""
    panels = {}
    for operation, name, info, timing in _single(kernels):
        found = panels.setdefault(f"{OPERATIONS[operation].shape} kernels under a {info['floor']}", {})
        found.setdefault(name, []).append((info["bytes"], info["bytes"] / timing.least / 1e9))
    for found in panels.values():  # of several operations with about as many bytes, the fastest floor
        points = sorted(found["floor"], key=lambda point: point[1])
        found["floor"] = list({f"{size:.2g}": (size, speed) for size, speed in points}.values())
    _panels(list(panels.items()), ("bytes of a call", "GB/s"), False, path)
