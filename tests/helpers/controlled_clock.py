"""A clock that tests set: ``clock.c``, preloaded before a process, and the offsets that it reads."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc")
OFFSETS = struct.Struct("<3q")
SIZE = 4096


def build(library: Path) -> Path:
    """Compile what is to be preloaded."""
    source = Path(__file__).parent / "clock.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    return library


class Clock:
    """The offsets of all processes that have been started with a clock file, which is open as ``fd``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.truncate(fd, SIZE)

    def move(self, real_s: float = 0, boot_s: float = 0) -> None:
        """Let CLOCK_REALTIME and CLOCK_BOOTTIME go on by so much, or back."""
        real_ns, boot_ns, tick_ns = OFFSETS.unpack(os.pread(self.fd, OFFSETS.size, 0))
        offsets = OFFSETS.pack(real_ns + int(real_s * 10**9), boot_ns + int(boot_s * 10**9), tick_ns)
        os.pwrite(self.fd, offsets, 0)

    def reset_boot(self, boot_s: float) -> None:
        """Let CLOCK_BOOTTIME be ahead of the real one by so much only."""
        os.pwrite(self.fd, struct.pack("<q", int(boot_s * 10**9)), 8)

    def tick(self, seconds: float) -> None:
        """From now on let so much time pass at each reading of CLOCK_BOOTTIME."""
        os.pwrite(self.fd, struct.pack("<q", int(seconds * 10**9)), 16)


def clock_of_this_script() -> Clock:
    """Return the clock of this process and all that it forks. If there is none yet, begin the script anew with one."""
    if "CLOCK_FILE" not in os.environ:
        if COMPILER is None:
            sys.exit("this needs a C compiler")
        # Nothing is left behind, however the script ends.
        clock, library = os.memfd_create("clock", 0), os.memfd_create("clock.so", 0)
        os.truncate(clock, SIZE)
        with tempfile.TemporaryDirectory() as folder:
            os.write(library, build(Path(folder) / "clock.so").read_bytes())
        names = {"CLOCK_FILE": f"/proc/self/fd/{clock}", "LD_PRELOAD": f"/proc/self/fd/{library}"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **names})
    return Clock(int(os.environ["CLOCK_FILE"].rpartition("/")[2]))
