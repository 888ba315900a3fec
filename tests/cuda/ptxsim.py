"""ptxsim: run PTX on the CPU, with NumPy, and check every memory access on the way.

    kernel = Kernel(ptx_text)
    run = launch(kernel, grid, block, array, scalar, ..., profile=True)
    print(run.report())

It runs the PTX that a compiler really emitted (Numba CUDA, numba-cuda-mlir, nvcc) for any target, so
what is tested is the code that a GPU would get, not its Python source.  Arrays are copied in and, if
writeable, copied back.

How it works.  All threads of a batch of blocks run together: a register is one NumPy array with an
element per thread, or a single element while it is uniform.  Threads that diverge form groups; the
group with the lowest program counter runs first, so that paths join again.  ``bar.sync`` really waits.
Every global array is a buffer of its own with a wide gap around it.

What it reports, as ``PTXError`` with the instruction: accesses out of bounds or misaligned, stores to
read-only arrays, reads of registers and shared words never written, shared-memory races between
warps (two accesses, one a write, no barrier between), ``shfl``/``vote`` whose mask names absent lanes,
instructions it does not know.  With ``profile=True`` it also counts executed warp instructions, 32-byte
sectors per global access and passes per shared access (bank conflicts).

What it cannot tell: races in global memory, hazards inside one warp, races on paths that this run did not
take, misaligned slices (every array starts at an aligned address), timing.  Only barrier 0; no mma, TMA,
mbarrier, clusters.  ``ex2`` and ``lg2`` are exact where hardware is off by about two units in the last place;
``fma.f32`` rounds through float64, ``fma.f64`` through long double.  A warp operation reached by its lanes from
different places counts as missing lanes.

The idea of interpreting PTX over NumPy arrays is also tinygrad's, in its mock GPU.
"""

import collections
import functools
import re
from typing import NamedTuple

import numpy as np

u8, u16, u32, u64 = np.uint8, np.uint16, np.uint32, np.uint64
i8, i16, i32, i64 = np.int8, np.int16, np.int32, np.int64
f16, f32, f64 = np.float16, np.float32, np.float64
TYPES = {
    "b8": u8, "u8": u8, "s8": i8, "b16": u16, "u16": u16, "s16": i16, "b32": u32, "u32": u32, "s32": i32,
    "b64": u64, "u64": u64, "s64": i64, "f16": f16, "f32": f32, "f64": f64, "pred": np.bool_,
}  # fmt: skip
UNSIGNED = {1: u8, 2: u16, 4: u32, 8: u64}
SIGNED = {1: i8, 2: i16, 4: i32, 8: i64}
WIDER = {i32: i64, u32: u64, i16: i32, u16: u32}

GLOBAL_BASE, BUFFER_SHIFT = 1 << 44, 36  # buffer i lies at GLOBAL_BASE + (i << BUFFER_SHIFT)
LOCAL_WINDOW, SHARED_WINDOW = 0x7D00_0000_0000, 0x7E00_0000_0000  # where generic addresses mean these
WARP, SECTOR = 32, 32
SMALLEST_NORMAL = np.finfo(f32).tiny


class PTXError(Exception):
    """The program did something wrong, or something that ptxsim does not know."""


# ---- parsing --------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    predicate: tuple | None  # (register, negated)
    opcode: str
    suffixes: list
    operands: list
    text: str


def size_of(dtype):
    return np.dtype(dtype).itemsize


def is_float(dtype):
    return np.dtype(dtype).kind == "f"


def round_up(value, step):
    return -(-value // step) * step


def split_operands(text):
    """Split at the commas outside brackets."""
    out, depth, current = [], 0, ""
    for ch in text:
        depth += (ch in "{[(") - (ch in "}])")
        if ch == "," and depth == 0:
            out.append(current.strip())
            current = ""
        else:
            current += ch
    if current.strip():
        out.append(current.strip())
    return out


class Kernel:
    """One ``.entry`` of a PTX text: parameters, registers, memory, instructions."""

    ENTRY = r"\.entry\s+(%s)\s*\((.*?)\)([^{]*)\{"
    PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
    POINTER = re.compile(r"\.ptr(\s+\.(global|shared|const|local))?(\s+\.align\s+\d+)?")
    VARIABLE = re.compile(
        r"\.(shared|local|global|const)\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?"
        r"\s*(=\s*\{([^}]*)\}|=\s*([^;]*))?;"
    )

    def __init__(self, source, name=None):
        source = re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", source, flags=re.S))
        entry = re.search(self.ENTRY % (re.escape(name) if name else r"[\w$]+"), source, re.S)
        if not entry:
            raise PTXError("no such entry")
        self.name = entry.group(1)
        limit = re.search(r"\.maxntid\s+(\d+)", entry.group(3))
        self.max_threads = int(limit.group(1)) if limit else None
        self._parse_parameters(entry.group(2))

        depth, end = 1, entry.end()
        while depth:
            depth += (source[end] == "{") - (source[end] == "}")
            end += 1
        body = source[entry.end() : end - 1]
        self._parse_variables(source[: entry.start()] + body)
        self._parse_registers(body)
        self._parse_code(body)

    def _parse_parameters(self, text):
        self.parameters, self.parameter_offset, offset = [], {}, 0  # (offset, dtype, size)
        for item in split_operands(text):
            align, kind, name, count = self.PARAMETER.search(self.POINTER.sub("", item)).groups()
            size = size_of(TYPES[kind]) * int(count or 1)
            offset = round_up(offset, int(align or size_of(TYPES[kind])))
            self.parameter_offset[name] = offset
            self.parameters.append((offset, TYPES[kind], size))
            offset += size
        self.parameter_bytes = offset

    def _parse_variables(self, text):
        self.shared, self.local, self.constants = {}, {}, {}  # name -> offset, offset, initial bytes
        self.shared_bytes = self.local_bytes = 0
        dynamic = None
        for match in self.VARIABLE.finditer(text):
            space, align, kind, name, count, _, values, _ = match.groups()
            if space == "shared" and count == "":
                dynamic = name
                continue
            size = size_of(TYPES[kind]) * int(count or 1)
            if space == "shared":
                self.shared[name] = round_up(self.shared_bytes, int(align))
                self.shared_bytes = self.shared[name] + size
            elif space == "local":
                self.local[name] = round_up(self.local_bytes, int(align))
                self.local_bytes = self.local[name] + size
            else:
                self.constants[name] = data = np.zeros(size, u8)
                if values:
                    initial = np.array([int(v, 0) for v in values.split(",")]).astype(TYPES[kind]).view(u8)
                    data[: initial.size] = initial
        self.has_dynamic_shared = dynamic is not None
        if dynamic:
            self.shared[dynamic] = round_up(self.shared_bytes, 16)

    def _parse_registers(self, body):
        self.registers = {}
        for kind, names in re.findall(r"\.reg\s*\.(\w+)\s+([^;]+);", body):
            for name in map(str.strip, names.split(",")):
                many = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
                for each in [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]:
                    self.registers[each] = TYPES[kind]

    def _parse_code(self, body):
        self.code, self.labels = [], {}
        for text in self._statements(body):
            while label := re.match(r"([\w$]+)\s*:\s*(.*)", text, re.S):
                self.labels[label[1]] = len(self.code)
                text = label[2].lstrip("{ \t")
            if text and not text.startswith("."):
                self.code.append(self._decode(text))

    @staticmethod
    def _statements(body):
        current = ""
        for line in map(str.strip, body.split("\n")):
            if line.startswith((".loc", ".file")):
                continue
            current += " " + line
            while True:
                stripped = current.strip()
                if stripped[:1] in ("{", "}"):  # scopes of inline assembly
                    current = stripped[1:]
                    continue
                end = current.find(";")
                if end < 0:
                    break
                yield current[:end].strip()
                current = current[end + 1 :]
        if ":" in current:
            yield current.strip()

    @staticmethod
    def _decode(text):
        predicate, rest = None, text
        if text.startswith("@"):
            guard, rest = text.split(None, 1)
            predicate = (guard[1:].lstrip("!"), guard[1] == "!")
        name = re.match(r"[\w.:]+", rest)[0]
        opcode, *suffixes = name.replace("::", "@").split(".")
        suffixes = [s.replace("@", "::") for s in suffixes]
        return Instruction(predicate, opcode, suffixes, split_operands(rest[len(name) :]), rest)


# ---- running --------------------------------------------------------------------------------------


class Buffer:
    """A global array: its bytes and its address."""

    def __init__(self, index, data, name, writable):
        self.base, self.data, self.size = GLOBAL_BASE + (index << BUFFER_SHIFT), data, data.size
        self.name, self.writable, self._views = name, writable, {}

    def view(self, dtype):
        if dtype not in self._views:
            size = size_of(dtype)
            self._views[dtype] = self.data[: self.size // size * size].view(dtype)
        return self._views[dtype]


class Group:
    """Threads at one program counter; ``lanes`` is None while it is all of them."""

    __slots__ = ("pc", "lanes", "warps")

    def __init__(self, pc, lanes, warps):
        self.pc, self.lanes, self.warps = pc, lanes, warps


def compare(op, a, b, floating):
    if floating:
        unordered = np.isnan(a) | np.isnan(b)
        if op in ("equ", "neu", "ltu", "leu", "gtu", "geu"):
            return compare(op[:2], a, b, False) | unordered
        if op in ("nan", "num"):
            return unordered if op == "nan" else ~unordered
        if op == "ne":
            return (a != b) & ~unordered
    return {
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
        "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    }[op](a, b)  # fmt: skip


def _fold(function):
    return lambda *values: functools.reduce(function, values)  # max and min may have three inputs


def launch(kernel, grid, block, *arguments, **options):
    """Run ``kernel`` and return the finished Simulation."""
    return Simulation(kernel, grid, block, arguments, **options)


class Simulation:
    """One launch.

    abi: how arrays become parameters: "numba" (seven or more words each, tuples taken apart), "memref"
        (numba-cuda-mlir), "c" (a pointer).
    seed: shuffles the order of blocks and of lanes in atomics.  shared_bytes: dynamic shared memory.
    check=False skips the race, collision and undefined-register checks; bounds are always checked.

    Afterwards: ``executed`` and ``executed_lanes`` per instruction, ``traffic`` pc -> [warp accesses,
    sectors, ideal sectors], ``passes`` pc -> [warp accesses, passes], ``events``, ``report()``.
    """

    def __init__(
        self, kernel, grid, block, arguments,
        *, abi="numba", shared_bytes=0, check=True, profile=False, flush=True, seed=None, max_lanes=1 << 16,
    ):  # fmt: skip
        self.kernel, self.check, self.profile, self.flush_subnormals = kernel, check, profile, flush
        self.grid, self.block = ((*np.atleast_1d(v).tolist(), 1, 1)[:3] for v in (grid, block))
        self.shuffle, self.rng = seed is not None, np.random.default_rng(seed)
        self.events = collections.Counter()
        self.executed = np.zeros(len(kernel.code), i64)
        self.executed_lanes = np.zeros(len(kernel.code), i64)
        self.traffic = collections.defaultdict(lambda: [0, 0, 0])
        self.passes = collections.defaultdict(lambda: [0, 0])
        self.handlers = [getattr(self, f"op_{i.opcode}", None) for i in kernel.code]

        self.threads = int(np.prod(self.block))
        if kernel.max_threads and self.threads > kernel.max_threads:
            raise PTXError("block larger than .maxntid")
        self.buffers = []
        outputs = self._bind(arguments, abi)
        self.symbols = {name: self._buffer(data, name).base for name, data in kernel.constants.items()}
        static = kernel.shared_bytes
        self.shared_bytes = round_up(static, 16) + shared_bytes if kernel.has_dynamic_shared else static

        blocks = np.arange(int(np.prod(self.grid)))
        if self.shuffle:
            self.rng.shuffle(blocks)
        batch = max(1, max_lanes // self.threads)
        for start in range(0, blocks.size, batch):
            self._run_blocks(blocks[start : start + batch])
        for buffer, array in outputs:
            array[...] = buffer.data.view(array.dtype).reshape(array.shape)

    def _bind(self, arguments, abi):
        """Fill the parameter space; return the arrays to copy back."""
        values, outputs, known = [], [], {}
        for argument in (x for a in arguments for x in (a if isinstance(a, tuple) else (a,))):
            if not isinstance(argument, np.ndarray):
                values.append(argument)
                continue
            place = argument.ctypes.data, argument.nbytes
            if place not in known:  # an array passed twice is one buffer
                known[place] = self._buffer(argument)
                if argument.flags.writeable:
                    outputs.append((known[place], argument))
            buffer = known[place]
            if abi == "numba":
                values += [0, 0, argument.size, argument.itemsize, buffer.base, *argument.shape, *argument.strides]
            elif abi == "memref":
                strides = [s // argument.itemsize for s in argument.strides]
                values += [buffer.base, buffer.base, 0, *argument.shape, *strides]
            else:
                values.append(buffer.base)
        if len(values) != len(self.kernel.parameters):
            raise PTXError(f"{len(values)} values for {len(self.kernel.parameters)} parameters")
        self.parameter_space = np.zeros(self.kernel.parameter_bytes, u8)
        for value, (offset, dtype, size) in zip(values, self.kernel.parameters, strict=True):
            if isinstance(value, (float, np.floating)):
                dtype = {4: f32, 8: f64}[size]
            elif isinstance(value, (int, np.integer)) and value < 0:
                dtype = SIGNED[size]
            self.parameter_space[offset : offset + size] = np.array([value], dtype).view(u8)
        return outputs

    def _buffer(self, array, name=None):
        if not array.flags.c_contiguous:
            raise PTXError("contiguous arrays only")
        data = array.reshape(-1).view(u8).copy() if array.size else np.zeros(0, u8)
        buffer = Buffer(len(self.buffers), data, name or f"arg{len(self.buffers)}", array.flags.writeable)
        self.buffers.append(buffer)
        return buffer

    # -- the scheduler

    def _start(self, blocks):
        """Registers, special registers and memories of a batch of blocks."""
        kernel, threads, count = self.kernel, self.threads, len(blocks)
        self.size = count * threads
        lane = np.arange(self.size)
        thread = lane % threads
        self.block_of = lane // threads
        warps = round_up(threads, WARP) // WARP
        self.warp_of, self.warps = self.block_of * warps + thread // WARP, count * warps
        self.lane_id = thread % WARP
        self.warp_start = lane - self.lane_id

        (bx, by, bz), (gx, gy, gz) = self.block, self.grid
        block = np.asarray(blocks)[self.block_of if count > 1 else slice(None)]
        special = {
            "%tid.x": thread % bx, "%tid.y": thread // bx % by, "%tid.z": thread // (bx * by),
            "%ctaid.x": block % gx, "%ctaid.y": block // gx % gy, "%ctaid.z": block // (gx * gy),
            "%ntid.x": [bx], "%ntid.y": [by], "%ntid.z": [bz],
            "%nctaid.x": [gx], "%nctaid.y": [gy], "%nctaid.z": [gz],
            "%laneid": self.lane_id, "%warpid": thread // WARP,
            "%lanemask_lt": (u64(1) << self.lane_id.astype(u64)) - u64(1),
        }  # fmt: skip
        self.special = {name: np.asarray(value).astype(u32) for name, value in special.items()}
        self.values = {}  # register -> array

        self.shared = np.zeros((count, round_up(self.shared_bytes, 16)), u8)
        self.local = np.zeros((self.size, round_up(kernel.local_bytes, 16)), u8)
        if self.check:  # per shared word: epoch and thread of the last write, epoch and extreme threads of the reads
            words = self.shared.shape[1] // 4
            self.epoch = np.zeros(count, i32)
            self.write_epoch, self.writer, self.read_epoch, self.first_reader, self.last_reader = (
                np.full((count, words), -1, i32) for _ in range(5)
            )

    def _run_blocks(self, blocks):
        self._start(blocks)
        code, handlers, labels = self.kernel.code, self.handlers, self.kernel.labels
        self.alive = alive = np.ones(self.size, bool)
        waiting = np.full(self.size, -1)  # pc of the barrier
        groups = [Group(0, None, self.warps)]
        with np.errstate(all="ignore"):
            while groups or alive.any():
                if not groups:
                    groups = self._release(alive, waiting)
                    continue
                groups.sort(key=lambda g: g.pc)
                group = groups[0]
                if len(groups) > 1 and groups[1].pc == group.pc:
                    other = groups.pop(1)
                    lanes = np.sort(np.concatenate([self._all(group.lanes), self._all(other.lanes)]))
                    groups[0] = self._group(group.pc, lanes)
                    continue
                self._run_group(group, groups, code, handlers, labels, alive, waiting)

    def _run_group(self, group, groups, code, handlers, labels, alive, waiting):
        """Run ``group``, the first of ``groups``, until it ends, splits, or catches up with the next."""
        stop, pc = groups[1].pc if len(groups) > 1 else 1 << 60, group.pc
        while pc < stop:
            lanes = group.lanes
            if pc >= len(code):
                alive[self._all(lanes)] = False
                groups.pop(0)
                return
            predicate, opcode, suffixes, operands, text = code[pc]
            count = self.size if lanes is None else lanes.size
            self.executed[pc] += group.warps
            self.executed_lanes[pc] += count
            chosen = None if predicate is None else self._predicate(predicate, lanes)

            if opcode == "bra":
                target = labels[operands[0]]
                if chosen is not None and chosen.size > 1 and chosen.any() and not chosen.all():
                    every = self._all(lanes)
                    groups[0:1] = [self._group(target, every[chosen]), self._group(pc + 1, every[~chosen])]
                    self.events["divergent branches"] += 1
                    return
                pc = target if chosen is None or chosen.flat[0] else pc + 1
                if len(groups) > 1:
                    break
                continue
            if opcode in ("ret", "exit"):
                every = self._all(lanes)
                leaving = np.ones(count, bool) if chosen is None else np.broadcast_to(chosen, count)
                alive[every[leaving]] = False
                if leaving.all():
                    groups.pop(0)
                    return
                groups[0] = group = self._group(pc + 1, every[~leaving])
                pc += 1
                continue
            if opcode in ("bar", "barrier") and "warp" not in suffixes:
                if operands != ["0"] or (chosen is not None and not chosen.all()):
                    raise PTXError(f"unsupported: {text}")
                waiting[self._all(lanes)] = pc
                groups.pop(0)
                return

            if chosen is None or chosen.any():
                if chosen is not None and not chosen.all():
                    lanes = self._all(lanes)[chosen]
                if handlers[pc] is None:
                    raise PTXError(f"unsupported: {text}")
                try:
                    handlers[pc](suffixes, operands, lanes, pc)
                except PTXError as error:
                    raise PTXError(f"{error}  [pc {pc}: {text}]") from None
            pc += 1
        group.pc = pc

    def _release(self, alive, waiting):
        """Every live thread waits: open the barrier of each block."""
        shape = -1, self.threads
        first = np.where(alive, waiting, 1 << 60).reshape(shape).min(1)
        last = np.where(alive, waiting, -1).reshape(shape).max(1)
        self.events["barrier at different places"] += int((first < last).sum())
        if self.check:
            self.epoch += last >= 0
        lanes = np.flatnonzero(alive)
        places = waiting[lanes]
        waiting[lanes] = -1
        return [self._group(int(pc) + 1, lanes[places == pc]) for pc in np.unique(places)]

    def _group(self, pc, lanes):
        if lanes.size == self.size:
            return Group(pc, None, self.warps)
        return Group(pc, lanes, np.unique(self.warp_of[lanes]).size)

    def _all(self, lanes):
        return np.arange(self.size) if lanes is None else lanes

    def _predicate(self, predicate, lanes):
        value = self.read(predicate[0], np.bool_, lanes)
        return ~value if predicate[1] else value

    # -- operands

    def read(self, operand, dtype, lanes):
        """Value of a register or constant: one element per lane, or a single one."""
        value = self.values.get(operand)
        if value is None:
            if operand not in self.kernel.registers:
                return self._constant(operand, dtype, lanes)
            if self.check:
                raise PTXError(f"read of undefined register {operand}")
            value = np.zeros(1, self.kernel.registers[operand])
        if lanes is not None and value.size > 1:
            value = value[lanes]
        if value.dtype == dtype:
            return value
        size = size_of(dtype)
        if value.dtype.itemsize == size:
            return value.view(dtype)
        return value.astype(UNSIGNED[size]).view(dtype) if value.dtype.itemsize > size else value.astype(dtype)

    def _constant(self, operand, dtype, lanes):
        special = self.special.get(operand)
        if special is not None:
            if lanes is not None and special.size > 1:
                special = special[lanes]
            return special.view(dtype) if size_of(dtype) == 4 else special.astype(dtype)
        if operand[:2] in ("0f", "0F"):
            bits = np.array([int(operand[2:], 16)], u32)
            return bits if dtype == u32 else bits.view(f32).astype(dtype)
        if operand[:2] in ("0d", "0D"):
            return np.array([int(operand[2:], 16)], u64).view(f64)
        for symbols in (self.kernel.shared, self.kernel.local, self.symbols):
            if operand in symbols:
                return np.array([symbols[operand]], dtype)
        if operand == "WARP_SZ":
            return np.array([WARP], dtype)
        try:
            number, size = int(operand.rstrip("U"), 0), size_of(dtype)
        except ValueError:
            raise PTXError(f"unknown operand {operand}") from None
        if dtype == np.bool_:
            return np.array([number != 0])
        return np.array([number & ((1 << 8 * size) - 1)], UNSIGNED[size]).view(dtype)

    def write(self, register, value, lanes):
        if register == "_":
            return
        dtype = self.kernel.registers.get(register)
        if dtype is None:
            raise PTXError(f"write to {register}")
        value = np.atleast_1d(value)
        if value.dtype != dtype:
            size = size_of(dtype)
            if value.dtype.itemsize == size:
                value = value.view(dtype)
            else:  # sign- or zero-extended
                value = value.astype((SIGNED if value.dtype.kind == "i" else UNSIGNED)[size]).view(dtype)
        if lanes is not None:
            old = self.values.get(register)
            if old is None:
                old = np.zeros(1, dtype)
            new = np.full(self.size, old[0]) if old.size == 1 else old.copy()  # a mov may share the array
            new[lanes] = value
            value = new
        self.values[register] = value

    def _flush(self, value, suffixes):
        if self.flush_subnormals and "ftz" in suffixes and value.dtype == f32:
            subnormal = np.abs(value) < SMALLEST_NORMAL
            if subnormal.any():
                return np.where(subnormal, np.copysign(f32(0), value), value)
        return value

    def _inputs(self, suffixes, operands, lanes, dtype):
        return [self._flush(self.read(o, dtype, lanes), suffixes) for o in operands]

    def _output(self, suffixes, register, value, lanes, dtype):
        value = np.asarray(value).astype(dtype, copy=False)
        if "sat" in suffixes:
            if not is_float(dtype):
                raise PTXError("integer saturation")
            value = np.nan_to_num(np.clip(value, dtype(0), dtype(1)), nan=0)
        self.write(register, self._flush(value, suffixes), lanes)

    @staticmethod
    def _type(suffixes):
        return next(TYPES[s] for s in reversed(suffixes) if s in TYPES)

    # -- arithmetic

    def _arithmetic(self, function, suffixes, operands, lanes):
        if "cc" in suffixes:
            raise PTXError("carry")
        dtype = self._type(suffixes)
        inputs = self._inputs(suffixes, operands[1:], lanes, dtype)
        if isinstance(function, np.ufunc) and function.nin != len(inputs):
            raise PTXError("number of operands")
        self._output(suffixes, operands[0], function(*inputs), lanes, dtype)

    def op_add(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.add, suffixes, operands, lanes)

    def op_sub(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.subtract, suffixes, operands, lanes)

    def op_and(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.bitwise_and, suffixes, operands, lanes)

    def op_or(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.bitwise_or, suffixes, operands, lanes)

    def op_xor(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.bitwise_xor, suffixes, operands, lanes)

    def op_not(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.invert, suffixes, operands, lanes)

    def op_max(self, suffixes, operands, lanes, pc):
        ignore_nan = is_float(self._type(suffixes)) and "NaN" not in suffixes
        self._arithmetic(_fold(np.fmax if ignore_nan else np.maximum), suffixes, operands, lanes)

    def op_min(self, suffixes, operands, lanes, pc):
        ignore_nan = is_float(self._type(suffixes)) and "NaN" not in suffixes
        self._arithmetic(_fold(np.fmin if ignore_nan else np.minimum), suffixes, operands, lanes)

    def op_neg(self, suffixes, operands, lanes, pc):
        floating = is_float(self._type(suffixes))
        self._arithmetic(np.negative if floating else (lambda x: ~x + x.dtype.type(1)), suffixes, operands, lanes)

    def op_abs(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.abs, suffixes, operands, lanes)

    def op_ex2(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.exp2, suffixes, operands, lanes)

    def op_lg2(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.log2, suffixes, operands, lanes)

    def op_rcp(self, suffixes, operands, lanes, pc):
        self._arithmetic(lambda x: x.dtype.type(1) / x, suffixes, operands, lanes)

    def op_sqrt(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.sqrt, suffixes, operands, lanes)

    def op_rsqrt(self, suffixes, operands, lanes, pc):
        self._arithmetic(lambda x: x.dtype.type(1) / np.sqrt(x), suffixes, operands, lanes)

    def op_tanh(self, suffixes, operands, lanes, pc):
        self._arithmetic(np.tanh, suffixes, operands, lanes)

    def op_popc(self, suffixes, operands, lanes, pc):
        value = self.read(operands[1], self._type(suffixes), lanes)
        self.write(operands[0], np.bitwise_count(value).astype(u32), lanes)

    @staticmethod
    def _quotient(x, y):
        """Integer division that rounds towards zero; by zero, by one."""
        y = np.where(y == 0, y.dtype.type(1), y)
        quotient = x // y
        return quotient + ((quotient * y != x) & ((x < 0) != (y < 0))).astype(quotient.dtype)

    def op_div(self, suffixes, operands, lanes, pc):
        floating = is_float(self._type(suffixes))
        self._arithmetic(np.divide if floating else self._quotient, suffixes, operands, lanes)

    def op_rem(self, suffixes, operands, lanes, pc):
        self._arithmetic(lambda x, y: x - self._quotient(x, y) * y, suffixes, operands, lanes)

    def op_mul(self, suffixes, operands, lanes, pc):
        if "wide" not in suffixes and "hi" not in suffixes:
            return self._arithmetic(np.multiply, suffixes, operands, lanes)
        narrow = self._type(suffixes)
        if narrow not in WIDER:
            raise PTXError("128-bit product")
        wide = WIDER[narrow]
        x, y = (self.read(o, narrow, lanes).astype(wide) for o in operands[1:3])
        product = x * y
        if "hi" in suffixes:
            product = (product >> wide(8 * size_of(narrow))).astype(narrow)
        self.write(operands[0], product, lanes)

    def op_mad(self, suffixes, operands, lanes, pc):
        narrow = self._type(suffixes)
        if is_float(narrow) or "hi" in suffixes or "cc" in suffixes:
            raise PTXError("this form of mad")
        wide = WIDER[narrow] if "wide" in suffixes else narrow
        x, y = (self.read(o, narrow, lanes).astype(wide) for o in operands[1:3])
        self.write(operands[0], x * y + self.read(operands[3], wide, lanes), lanes)

    def op_fma(self, suffixes, operands, lanes, pc):
        dtype = self._type(suffixes)
        x, y, z = self._inputs(suffixes, operands[1:4], lanes, dtype)
        if dtype is f32:
            exact = x.astype(f64) * y + z
            value = exact.astype(f32)
            if "rm" in suffixes:
                value = np.where(value > exact, np.nextafter(value, f32(-np.inf)), value)
            if "rp" in suffixes:
                value = np.where(value < exact, np.nextafter(value, f32(np.inf)), value)
        else:
            value = x.astype(np.longdouble) * y + z
        self._output(suffixes, operands[0], value, lanes, dtype)

    def op_shl(self, suffixes, operands, lanes, pc):
        dtype = self._type(suffixes)
        bits = 8 * size_of(dtype)
        value, count = self.read(operands[1], dtype, lanes), self.read(operands[2], u32, lanes)
        shifted = value << np.minimum(count, bits - 1).astype(dtype)
        self.write(operands[0], np.where(count >= bits, dtype(0), shifted), lanes)

    def op_shr(self, suffixes, operands, lanes, pc):
        dtype = self._type(suffixes)
        bits = 8 * size_of(dtype)
        value, count = self.read(operands[1], dtype, lanes), self.read(operands[2], u32, lanes)
        shifted = value >> np.minimum(count, bits - 1).astype(dtype)
        if np.dtype(dtype).kind == "u":
            shifted = np.where(count >= bits, dtype(0), shifted)
        self.write(operands[0], shifted, lanes)

    def op_bfe(self, suffixes, operands, lanes, pc):
        if self._type(suffixes) is not u32:
            raise PTXError("this form of bfe")
        value, start, length = (self.read(o, u32, lanes).astype(u64) for o in operands[1:4])
        start, length = np.minimum(start & u64(255), u64(63)), np.minimum(length & u64(255), u64(32))
        self.write(operands[0], ((value >> start) & ((u64(1) << length) - u64(1))).astype(u32), lanes)

    def op_bfi(self, suffixes, operands, lanes, pc):
        dtype = self._type(suffixes)
        if dtype is not u64:
            raise PTXError("this form of bfi")
        widths = u64, u64, u32, u32
        insert, into, start, length = (self.read(o, t, lanes) for o, t in zip(operands[1:], widths, strict=True))
        start, length = start.astype(u64), length.astype(u64)
        if (start > 63).any() or (length > 63).any():
            raise PTXError("this form of bfi")
        field = ((u64(1) << length) - u64(1)) << start
        self.write(operands[0], (into & ~field) | ((insert << start) & field), lanes)

    def op_mov(self, suffixes, operands, lanes, pc):
        dtype, (to, source) = self._type(suffixes), operands
        if to.startswith("{"):  # split into parts
            parts = split_operands(to[1:-1])
            bits = 8 * size_of(dtype) // len(parts)
            value = self.read(source, dtype, lanes)
            for i, part in enumerate(parts):
                field = (value >> dtype(i * bits)) & dtype((1 << bits) - 1)
                self.write(part, field.astype(UNSIGNED[bits // 8]), lanes)
        elif source.startswith("{"):  # join parts
            parts = split_operands(source[1:-1])
            bits, value = 8 * size_of(dtype) // len(parts), dtype(0)
            for i, part in enumerate(parts):
                value = value | (self.read(part, UNSIGNED[bits // 8], lanes).astype(dtype) << dtype(i * bits))
            self.write(to, value, lanes)
        else:
            self.write(to, self.read(source, dtype, lanes), lanes)

    def op_cvt(self, suffixes, operands, lanes, pc):
        to, source = (TYPES[s] for s in suffixes if s in TYPES)
        value = self._flush(self.read(operands[1], source, lanes), suffixes)
        rounding = {"rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil, "rni": np.rint}
        rounding = next((rounding[s] for s in suffixes if s in rounding), None)
        if is_float(source) and not is_float(to):
            limits = np.iinfo(to)
            whole = np.nan_to_num((rounding or np.rint)(value.astype(f64)), nan=0.0)
            value = np.clip(whole, float(limits.min), float(limits.max)).astype(to)
            value[whole >= float(limits.max)] = limits.max  # float(max) may round up, beyond the type
        elif rounding is not None:
            value = rounding(value)
        self._output(suffixes if is_float(to) else (), operands[0], value, lanes, to)

    def op_setp(self, suffixes, operands, lanes, pc):
        dtype = self._type(suffixes)
        a, b = self._inputs(suffixes, operands[1:3], lanes, dtype)
        result = compare(suffixes[0], a, b, is_float(dtype))
        if len(operands) == 4:
            other = self._predicate((operands[3].lstrip("!"), operands[3][0] == "!"), lanes)
            combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
            result = combine[suffixes[1]](result, other)
        first, *second = operands[0].split("|")
        self.write(first, result, lanes)
        if second:
            self.write(second[0], ~result, lanes)

    def op_selp(self, suffixes, operands, lanes, pc):
        dtype = self._type(suffixes)
        yes, no = (self.read(o, dtype, lanes) for o in operands[1:3])
        self.write(operands[0], np.where(self.read(operands[3], np.bool_, lanes), yes, no), lanes)

    # -- addresses

    def op_cvta(self, suffixes, operands, lanes, pc):
        dtype = self._type(suffixes)
        windows = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
        window = dtype(next((windows[s.split("::")[0]] for s in suffixes if s.split("::")[0] in windows), 0))
        value = self.read(operands[1], dtype, lanes)
        self.write(operands[0], value - window if "to" in suffixes else value + window, lanes)

    def _address(self, operand, lanes):
        """``[register + offset]`` as (addresses, None), or (None, offset) in the parameter space."""
        text = operand[1:-1].strip()
        sum_ = re.fullmatch(r"(.+?)\s*\+\s*(-?\w+)", text)
        base, offset = (sum_[1], int(sum_[2], 0)) if sum_ else (text, 0)
        if base in self.kernel.parameter_offset:
            return None, self.kernel.parameter_offset[base] + offset
        value = self.read(base, u64, lanes)
        return (value + u64(offset & 0xFFFF_FFFF_FFFF_FFFF) if offset else value), None

    def _space(self, suffixes, address):
        """Name the state space; make the address relative to it."""
        for space in ("global", "shared", "local", "const"):
            if any(s.startswith(space) for s in suffixes):
                return space, address
        for space, window in (("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW)):
            inside = address >= u64(window)
            if inside.any():
                if not inside.all():
                    raise PTXError("generic addresses in different spaces")
                return space, address - u64(window)
        return "global", address

    def _global(self, address, size, writing=False):
        """The buffer that all addresses lie in, and their byte offsets."""
        low, high = int(address.min()), int(address.max())
        index = (low - GLOBAL_BASE) >> BUFFER_SHIFT
        if low < GLOBAL_BASE or index >= len(self.buffers):
            raise PTXError(f"bad global address {low:#x}")
        buffer = self.buffers[index]
        if high + size > buffer.base + buffer.size:
            if (high - GLOBAL_BASE) >> BUFFER_SHIFT != index:
                raise PTXError("lanes touch two buffers, or are far out of bounds")
            raise PTXError(f"out of bounds: {buffer.name} has {buffer.size} bytes, offset {high - buffer.base}")
        offset = (address - u64(buffer.base)).astype(i64)
        if (offset % size).any():
            raise PTXError(f"misaligned {size}-byte access to {buffer.name}")
        if writing and not buffer.writable:
            raise PTXError(f"store to {buffer.name}, which is read-only")
        return buffer, offset

    def _shared_index(self, address, size, lanes, pc, writing):
        every = self._all(lanes)
        address, block = np.broadcast_to(address, every.shape).astype(i64), self.block_of[every]
        if address.min() < 0 or address.max() + size > self.shared_bytes:
            raise PTXError(f"shared out of bounds: offset {address.max()} of {self.shared_bytes}")
        if (address % size).any():
            raise PTXError("misaligned shared access")
        if self.profile:
            self._count_passes(pc, address, every)
        if self.check:
            for byte in range(0, size, 4):
                self._check_race(block, (address + byte) >> 2, every, writing)
        return block, address

    def _local_index(self, address, size, lanes):
        every = self._all(lanes)
        address = np.broadcast_to(address, every.shape).astype(i64)
        if address.min() < 0 or address.max() + size > self.kernel.local_bytes or (address % size).any():
            raise PTXError("bad local address")
        return every, address

    # -- memory checks and counts

    def _check_race(self, block, word, every, writing):
        """Report accesses of different warps to one word in one epoch (time between barriers)."""
        epoch, kind = self.epoch[block], "write" if writing else "read"

        def hazard(other, valid, verb):
            bad = valid & (other != every) & (self.warp_of[np.clip(other, 0, self.size - 1)] != self.warp_of[every])
            if bad.any():
                here, there = every[bad][0] % self.threads, other[bad][0] % self.threads
                raise PTXError(
                    f"shared race: {kind} by thread {here} of word {word[bad][0]} {verb} by thread {there} "
                    "with no barrier between"
                )

        hazard(self.writer[block, word], self.write_epoch[block, word] == epoch, "written")
        read_now = self.read_epoch[block, word] == epoch
        if writing:
            hazard(self.first_reader[block, word], read_now, "read")
            hazard(self.last_reader[block, word], read_now, "read")
            self.write_epoch[block, word], self.writer[block, word] = epoch, every
        else:
            unwritten = self.write_epoch[block, word] < 0
            if unwritten.any():
                thread = every[unwritten][0] % self.threads
                raise PTXError(f"thread {thread} reads shared word {word[unwritten][0]}, never written")
            fresh = block[~read_now], word[~read_now]
            self.first_reader[fresh], self.last_reader[fresh] = 1 << 30, -1
            self.read_epoch[block, word] = epoch
            np.minimum.at(self.first_reader, (block, word), every)
            np.maximum.at(self.last_reader, (block, word), every)

    def _count_sectors(self, pc, address, size, lanes):
        every = self._all(lanes)
        warp = self.warp_of[every].astype(i64)
        address = np.broadcast_to(address, every.shape).astype(i64) - GLOBAL_BASE
        touched = [(warp << 40) | ((address + byte) >> 5) for byte in range(0, size, min(size, SECTOR))]
        count = self.traffic[pc]
        count[0] += np.unique(warp).size
        count[1] += np.unique(np.concatenate(touched)).size
        count[2] += round_up(every.size * size, SECTOR) // SECTOR

    def _count_passes(self, pc, address, every):
        """Bank conflicts of the first word of each access: distinct words per bank, per warp."""
        words = np.unique((self.warp_of[every].astype(i64) << 32) | (address >> 2))
        per_bank = np.bincount((words >> 32) * WARP + (words & 31))
        worst = np.pad(per_bank, (0, -per_bank.size % WARP)).reshape(-1, WARP).max(1)
        count = self.passes[pc]
        count[0] += int((worst > 0).sum())
        count[1] += int(worst.sum())

    # -- loads, stores, atomics

    @staticmethod
    def _vector(suffixes, operand):
        count = next((int(s[1:]) for s in suffixes if s in ("v2", "v4", "v8")), 1)
        return split_operands(operand[1:-1]) if count > 1 else [operand]

    def op_ld(self, suffixes, operands, lanes, pc):
        dtype, parts = self._type(suffixes), self._vector(suffixes, operands[0])
        size = size_of(dtype)
        address, parameter = self._address(operands[1], lanes)
        if address is None:
            for i, part in enumerate(parts):
                at = parameter + i * size
                self.write(part, self.parameter_space[at : at + size].copy().view(dtype), lanes)
            return
        space, address = self._space(suffixes, address)
        if space == "shared":
            block, offset = self._shared_index(address, size * len(parts), lanes, pc, writing=False)
            memory, index = self.shared.view(dtype), offset // size
            loaded = [memory[block, index + i] for i in range(len(parts))]
        elif space == "local":
            every, offset = self._local_index(address, size * len(parts), lanes)
            memory, index = self.local.view(dtype), offset // size
            loaded = [memory[every, index + i] for i in range(len(parts))]
        else:
            buffer, offset = self._global(address, size * len(parts))
            if self.profile:
                self._count_sectors(pc, address, size * len(parts), lanes)
            memory, index = buffer.view(dtype), offset // size
            loaded = [memory[index + i] for i in range(len(parts))]
        for part, value in zip(parts, loaded, strict=True):
            self.write(part, value, lanes)

    def op_st(self, suffixes, operands, lanes, pc):
        dtype, parts = self._type(suffixes), self._vector(suffixes, operands[1])
        size = size_of(dtype)
        address, parameter = self._address(operands[0], lanes)
        if address is None:
            raise PTXError("store to a parameter")
        space, address = self._space(suffixes, address)
        values = [self.read(part, dtype, lanes) for part in parts]
        if space == "shared":
            block, offset = self._shared_index(address, size * len(parts), lanes, pc, writing=True)
            for i, value in enumerate(values):
                self.shared.view(dtype)[block, offset // size + i] = value
        elif space == "local":
            every, offset = self._local_index(address, size * len(parts), lanes)
            for i, value in enumerate(values):
                self.local.view(dtype)[every, offset // size + i] = value
        else:
            buffer, offset = self._global(address, size * len(parts), writing=True)
            if self.check:
                collide = self._all(lanes).size > 1 if offset.size == 1 else np.unique(offset).size < offset.size
                self.events["store collisions"] += bool(collide)
            if self.profile:
                self._count_sectors(pc, address, size * len(parts), lanes)
            for i, value in enumerate(values):
                buffer.view(dtype)[offset // size + i] = value

    ATOMIC = {
        "add": lambda old, x, y: old + x, "min": lambda old, x, y: min(old, x), "max": lambda old, x, y: max(old, x),
        "and": lambda old, x, y: old & x, "or": lambda old, x, y: old | x, "xor": lambda old, x, y: old ^ x,
        "exch": lambda old, x, y: x, "cas": lambda old, x, y: y if old == x else old,
        "inc": lambda old, x, y: type(old)(0) if old >= x else old + type(old)(1),
        "dec": lambda old, x, y: x if old == 0 or old > x else old - type(old)(1),
    }  # fmt: skip

    def op_atom(self, suffixes, operands, lanes, pc):
        self.write(operands[0], self._atomic(suffixes, operands[1:], lanes), lanes)

    def op_red(self, suffixes, operands, lanes, pc):
        self._atomic(suffixes, operands, lanes)

    def _atomic(self, suffixes, operands, lanes):
        dtype, every = self._type(suffixes), self._all(lanes)
        size = size_of(dtype)
        x, *y = (np.broadcast_to(self.read(o, dtype, lanes), every.shape) for o in operands[1:])
        y = y[0] if y else x
        space, address = self._space(suffixes, self._address(operands[0], lanes)[0])
        if space == "shared":
            offset = np.broadcast_to(address, every.shape).astype(i64)
            if offset.min() < 0 or offset.max() + size > self.shared_bytes or (offset % size).any():
                raise PTXError("bad shared address")
            memory = self.shared.view(dtype)
            places = list(zip(self.block_of[every], offset // size, strict=True))
        else:
            buffer, offset = self._global(address, size, writing=True)
            memory = buffer.view(dtype)
            places = np.broadcast_to(offset // size, every.shape)
        update = self.ATOMIC[next(s for s in suffixes if s in self.ATOMIC)]
        old = np.empty(every.size, dtype)
        for i in self.rng.permutation(every.size) if self.shuffle else range(every.size):
            old[i] = memory[places[i]]
            memory[places[i]] = update(old[i], x[i], y[i])
        return old

    # -- warps

    def _masks(self, lanes):
        """Per warp, the bits of ``lanes``."""
        masks = np.zeros(self.warps, u32)
        np.bitwise_or.at(masks, self.warp_of[lanes], u32(1) << self.lane_id[lanes].astype(u32))
        return masks

    def _check_mask(self, operand, lanes):
        """All lanes named that are still alive must be here."""
        if self.check:
            every = self._all(lanes)
            absent = self._masks(np.flatnonzero(self.alive)) & ~self._masks(every)
            if (self.read(operand, u32, lanes) & absent[self.warp_of[every]]).any():
                raise PTXError("a lane named in the mask is not here")

    def op_shfl(self, suffixes, operands, lanes, pc):
        every, mode = self._all(lanes), suffixes[1]
        if len(operands) > 4:
            self._check_mask(operands[4], lanes)
        source, present = np.zeros(self.size, u32), np.zeros(self.size, bool)
        source[every], present[every] = self.read(operands[1], u32, lanes), True
        distance, clamp = (np.broadcast_to(self.read(o, u32, lanes), every.shape).astype(i64) for o in operands[2:4])
        lane, segment, bound = self.lane_id[every], (clamp >> 8) & 31, clamp & 31
        low, high = lane & segment, (lane & segment) | (bound & ~segment)
        if mode == "up":
            wanted = lane - distance
            valid = wanted >= high
        else:
            wanted = {"down": lane + distance, "bfly": lane ^ distance, "idx": low | (distance & ~segment)}[mode]
            valid = wanted <= high
        wanted, start = np.where(valid, wanted, lane), self.warp_start[every]
        index = np.minimum(start + wanted, self.size - 1)
        beyond = start % self.threads + wanted >= self.threads  # a short last warp
        if self.check and (beyond | ~present[index]).any():
            raise PTXError("shfl reads an absent lane")
        to, *predicate = operands[0].split("|")
        self.write(to, source[index], lanes)
        if predicate:
            self.write(predicate[0], valid, lanes)

    def op_vote(self, suffixes, operands, lanes, pc):
        every = self._all(lanes)
        if "uni" in suffixes:
            raise PTXError("this form of vote")
        if len(operands) > 2:
            self._check_mask(operands[2], lanes)
        vote = self._predicate((operands[1].lstrip("!"), operands[1][0] == "!"), lanes)
        vote, warp = np.broadcast_to(vote, every.shape), self.warp_of[every]
        if "ballot" in suffixes:
            result = self._masks(every[vote])
        else:
            yes, total = np.zeros(self.warps, i64), np.zeros(self.warps, i64)
            np.add.at(yes, warp, vote)
            np.add.at(total, warp, 1)
            result = yes == total if "all" in suffixes else yes > 0
        self.write(operands[0], result[warp], lanes)

    def op_activemask(self, suffixes, operands, lanes, pc):
        every = self._all(lanes)
        self.write(operands[0], self._masks(every)[self.warp_of[every]], lanes)

    def op_bar(self, suffixes, operands, lanes, pc):  # bar.warp.sync; bar.sync is the scheduler's
        self._check_mask(operands[0], lanes)

    def _nothing(self, suffixes, operands, lanes, pc):
        pass

    op_membar = op_fence = op_prefetch = op_nanosleep = _nothing

    def op_trap(self, suffixes, operands, lanes, pc):
        raise PTXError("trap")

    # -- afterwards

    def report(self):
        """Executed warp instructions, then traffic and conflicts per instruction."""
        text, code = [f"warp instructions {int(self.executed.sum())}"], self.kernel.code
        for pc, (accesses, sectors, ideal) in sorted(self.traffic.items()):
            share = f"{100 * ideal / max(sectors, 1):.0f}% ideal"
            text.append(f"  global pc {pc} {code[pc].text[:60]}: {accesses} accesses, {sectors} sectors, {share}")
        for pc, (accesses, passes) in sorted(self.passes.items()):
            text.append(f"  shared pc {pc} {code[pc].text[:60]}: {accesses} accesses, {passes} passes")
        return "\n".join(text + [f"  {event}: {count}" for event, count in self.events.items() if count])
