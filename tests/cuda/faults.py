"""The testers tested: seeded faults that ptxsim must report, in a kernel of ours and in PTX written by hand.

    python faults.py

Prints {fault: None or what went wrong} as JSON.
"""

import json
import re
import sys

import numpy as np
import run_compiled
from ptxsim import Kernel, PTXError, launch
from runs import TABLE


def message(job):
    try:
        job()
    except PTXError as error:
        return str(error)
    return None


def without(ptx, pattern, index):
    """``ptx`` without the index-th match of ``pattern``."""
    match = list(re.finditer(pattern, ptx))[index]
    return ptx[: match.start()] + ptx[match.end() :]


HAND_WRITTEN = """
.visible .entry k(.param .u64 k_x) {
  .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<3>; .reg .pred %p<3>;
  .shared .align 4 .b8 tile[512];
  ld.param.u64 %rd1, [k_x];
  mov.u32 %r1, %tid.x;
  shl.b32 %r2, %r1, 2;
  mov.u32 %r3, tile;
  add.s32 %r4, %r3, %r2;
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd3, %rd1, %rd2;
  BODY
  st.global.f32 [%rd3], %f1;
  ret;
}
"""


def by_hand(body, threads=64):
    return lambda: launch(Kernel(HAND_WRITTEN.replace("BODY", body)), 2, threads, np.zeros(64, np.float32), abi="c")


def forward():
    """The row kernel on the case with most columns among the small: its run, PTX and a launcher."""
    run = max(TABLE["row_forward f32"](False), key=lambda run: run.arguments[0].shape[1])
    ptx = run_compiled.ptx_of(run.make, run.key, run_compiled.signature_of(run))

    def start(ptx=ptx, **changed):
        arguments = list(run.arguments)
        for position, x in changed.items():
            arguments[int(position[1:])] = x
        launch(Kernel(ptx), run.blocks, run.threads, *arguments)

    return run, ptx, start


def faults():
    run, ptx, start = forward()
    logp = run.arguments[4]
    read_only = np.zeros_like(logp)
    read_only.flags.writeable = False
    shuffle = re.search(r"shfl\.sync\.bfly\.b32[^;]*;", ptx)[0]
    guarded = f"mov.u32 %r9999, %tid.x;\nsetp.lt.u32 %p9999, %r9999, 7;\n@%p9999 bra $SKIP;\n{shuffle}\n$SKIP:"
    declared = ".reg .b32 %r9999;\n.reg .pred %p9999;\n.reg .pred"
    diverged = ptx.replace(shuffle, guarded, 1).replace(".reg .pred", declared, 1)
    one, shift = "mov.f32 %f1, 0f3F800000;", "shfl.sync.down.b32 %r6, %r1, 8, 31, -1; cvt.rn.f32.u32 %f1, %r6;"
    vote = "setp.ne.u32 %p1, %r1, 9; vote.sync.all.pred %p2, %p1, -1;"
    empty = np.zeros(0, logp.dtype)
    return (
        ("clean", None, start),
        ("a barrier removed", "shared race", lambda: start(without(ptx, r"bar(rier)?\.sync\s+0;", 0))),
        ("output too short", "out of bounds", lambda: start(_4=empty)),
        ("tokens too short", "out of bounds", lambda: start(_1=run.arguments[1][:0])),
        ("output read-only", "read-only", lambda: start(_4=read_only)),
        ("shuffle in a divergent branch", "mask is not here", lambda: start(diverged)),
        ("unknown instruction", "unsupported", lambda: start(ptx.replace(shuffle, "elect.sync _|%p1, 0;\n" + shuffle))),
        ("unwritten shared word", "never written", by_hand("ld.shared.f32 %f1, [%r4];")),
        ("own shared word", None, by_hand(one + "st.shared.f32 [%r4], %f1; ld.shared.f32 %f1, [%r4];")),
        ("undefined register", "undefined register", by_hand("add.f32 %f1, %f2, %f2;")),
        ("shared out of bounds", "shared out of bounds", by_hand(one + "st.shared.f32 [%r4+256], %f1;", 65)),
        ("shuffle from beyond a short warp", "absent lane", by_hand(shift, 48)),
        ("vote in a short warp", None, by_hand(one + vote, 48)),
    )


def main():
    report = {}
    for name, expected, job in faults():
        got = message(job)
        good = got is None if expected is None else got is not None and expected in got
        report[name] = None if good else f"expected {expected!r}, got {got!r}"
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
