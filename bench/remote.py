"""The bench's end of the worker processes."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from worker import ENVIRONMENT, PEERS

HERE = Path(__file__).parent
PATHS = (str(HERE), str(HERE.parent / "tests"), str(HERE.parent))


class Unavailable(Exception):
    """Why a peer has no figure."""


def missing(name):
    """The packages of a peer that are not installed."""
    return [package for package in PEERS[name][2] if importlib.util.find_spec(package) is None]


class Worker:
    """One peer's process, started when first asked."""

    def __init__(self, name):
        self.name, self.prepared = name, None
        absent = missing(name)
        if absent:
            raise Unavailable(f"{', '.join(absent)} is not installed (make bench PEERS=1)")
        given = os.environ.get("PYTHONPATH")
        own = {"PYTHONPATH": os.pathsep.join([*PATHS, *([given] if given else [])]), "FASTALIGN_NUM_THREADS": "1"}
        self.errors = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env={**os.environ, **ENVIRONMENT.get(name, {}), **own},
        )  # fmt: skip

    def ask(self, **asked):
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            status = self.process.wait(timeout=30)
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise Unavailable(f"{self.name} ended with status {status}; its last words: {last[:300]}")
        found = json.loads(reply)
        if "skip" in found or "error" in found:
            raise Unavailable(found.get("skip") or found["error"])
        return found

    def prepare(self, task, shape, dtype):
        """The largest errors of the peer's results, which the worker has compared with the reference."""
        key = (task, shape, dtype)
        if self.prepared != key:
            self.prepared = None
            self.found = self.ask(prepare=key)
            self.prepared = key
        return self.found["errors"]

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.errors.close()


_workers: dict[str, Worker | str] = {}


def worker(name):
    """The running worker of a peer; what cannot start is not tried again, what ended starts afresh."""
    if isinstance(_workers.get(name), Worker) and _workers[name].process.poll() is not None:
        _workers.pop(name).close()
    if name not in _workers:
        try:
            _workers[name] = Worker(name)
        except Unavailable as why:
            _workers[name] = str(why)
    found = _workers[name]
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def close():
    while _workers:
        _, found = _workers.popitem()
        if isinstance(found, Worker):
            found.close()
