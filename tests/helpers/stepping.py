"""Processes that are stepped through an operation of hbcore one machine instruction at a time, with ptrace."""

import ctypes
import mmap
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hbcore

TRACEME, PEEKTEXT, PEEKUSER, POKETEXT, POKEUSER, CONTINUE, SINGLESTEP = 0, 1, 3, 4, 6, 7, 9
INSTRUCTION_POINTER = 16 * 8  # of x86-64, in what PEEKUSER reads
BREAKPOINT = 0xCC  # int3 of x86-64
STEP_LIMIT = 2_000_000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_ulong

Work = Callable[[hbcore.Engine], Callable[[], object]]


def can_trace() -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.ptrace(TRACEME, 0, None, None) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


class Stepped:
    """A process in front of an operation; ``work`` is given the engine in that process and returns the operation."""

    def __init__(self, path: Path, work: Work) -> None:
        self.steps = 0
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                operation = work(hbcore.Engine(path))
                libc.ptrace(TRACEME, 0, None, None)
                os.kill(os.getpid(), signal.SIGSTOP)
                operation()
                status = 0
            finally:
                os._exit(status)
        assert os.WIFSTOPPED(os.waitpid(self.pid, 0)[1])

    def step(self) -> bool:
        """Let it do one instruction; return False if that was its last."""
        self.steps += 1
        assert self.steps < STEP_LIMIT
        assert libc.ptrace(SINGLESTEP, self.pid, None, None) == 0
        return self.is_going_on()

    def is_going_on(self) -> bool:
        status = os.waitpid(self.pid, 0)[1]
        if os.WIFSTOPPED(status):
            return True
        self.pid = 0
        assert os.waitstatus_to_exitcode(status) == 0
        return False

    def place(self) -> int:
        """Return the address of the instruction that comes next."""
        return libc.ptrace(PEEKUSER, self.pid, INSTRUCTION_POINTER, None)

    def run_to(self, addresses: list[int], times: int) -> bool:
        """Let it run until it stands in front of one of these instructions for the given time; False: it has ended."""
        for time in range(times):
            if time and not self.step():
                return False
            if time and self.place() in addresses:
                continue
            before = [self.exchange(address, BREAKPOINT) for address in addresses]
            assert libc.ptrace(CONTINUE, self.pid, None, None) == 0
            if not self.is_going_on():
                return False
            for address, byte in zip(addresses, before, strict=True):
                self.exchange(address, byte)
            place = self.place() - 1
            assert place in addresses
            assert libc.ptrace(POKEUSER, self.pid, INSTRUCTION_POINTER, place) == 0
        return True

    def exchange(self, address: int, byte: int) -> int:
        """Put a byte into its code, and return what was there."""
        word = libc.ptrace(PEEKTEXT, self.pid, address, None)
        assert libc.ptrace(POKETEXT, self.pid, address, word & ~0xFF | byte) == 0
        return word & 0xFF

    def go_on(self) -> None:
        """Let it run to its end, which must be a good one."""
        assert libc.ptrace(CONTINUE, self.pid, None, None) == 0
        assert not self.is_going_on()

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def states(path: Path, work: Work) -> Iterator[bytes]:
    """Yield the file's content after each instruction of a process that changes it, from its first to its last."""
    stepped = Stepped(path, work)
    try:
        with open(path, "rb") as file:
            before = path.read_bytes()
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            yield before
            while stepped.step():
                if os.fstat(file.fileno()).st_size != len(mapping):
                    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                if mapping[:] != before:
                    before = mapping[:]
                    yield before
    finally:
        stepped.kill()


def code_of(module: str) -> tuple[int, int]:
    """Return where the code of an extension module of hbcore lies, in this process and in all that it forks."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, rights, *_, path = line.split(maxsplit=5)
        if "x" in rights and re.search(rf"/hbcore/(\w+/)?{module}\.", path):
            low, high = bounds.split("-")
            return int(low, 16), int(high, 16)
    raise AssertionError(f"the code of the module {module} is not loaded")


def instructions_of(path: Path, work: Work, module: str) -> list[tuple[int, int]]:
    """Return each instruction of the operation in a module, in its order: the address, and for which time it comes."""
    low, high = code_of(module)
    times: Counter[int] = Counter()
    found = []
    stepped = Stepped(path, work)
    try:
        while stepped.step():
            if low <= (place := stepped.place()) < high:
                times[place] += 1
                found.append((place, times[place]))
    finally:
        stepped.kill()
    return found


def swaps_of(module: str) -> list[int]:
    """Return the addresses of all compare-and-swaps of 16 bytes in the code of a module."""
    low, high = code_of(module)
    code = ctypes.string_at(low, high - low)
    pattern = rb"\xf0[\x48-\x4f]\x0f\xc7[\x08-\x0f\x48-\x4f\x88-\x8f]"  # lock cmpxchg16b
    return [low + found.start() for found in re.finditer(pattern, code)]


def pause(path: Path, work: Work, instruction: tuple[int, int], meanwhile: Callable[[], object]) -> None:
    """Stop a process in front of an instruction, do something else meanwhile, and let it go on to its end."""
    stepped = Stepped(path, work)
    try:
        assert stepped.run_to([instruction[0]], instruction[1])
        meanwhile()
        stepped.go_on()
    finally:
        stepped.kill()


def die(path: Path, work: Work, addresses: list[int], times: int) -> bool:
    """Kill a process when it stands in front of one of these instructions for the given time; False: it has ended."""
    stepped = Stepped(path, work)
    try:
        return stepped.run_to(addresses, times)
    finally:
        stepped.kill()
