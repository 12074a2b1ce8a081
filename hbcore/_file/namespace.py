"""The time namespace of this process (time_namespaces(7)), which says how far its boot clock is ahead of the machine's.

Claims lapse by CLOCK_BOOTTIME, which a container may see with an offset of its own. Two containers that share a file
have to mean the same moment by the same number, so each takes its offset off: what is left is the machine's clock.
"""

import os

from hbcore.errors import HbcoreError

INITIAL = 0xEFFF_FFFA
"""The number of the machine's own time namespace (PROC_TIME_INIT_INO of Linux)."""


def time_namespace() -> int:
    """Return the number of the namespace whose clocks this process reads, or 0 if the kernel has no time namespaces."""
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:
        return 0


def boot_offset_ms() -> int:
    """Return by how many milliseconds CLOCK_BOOTTIME is ahead here, rounded down.

    So where an offset is not a whole number of milliseconds, a claim that one container grants may seem up to one
    millisecond older or younger to another.
    """
    number = time_namespace()
    if number in (0, INITIAL):
        return 0
    # The file tells the offsets of the namespace that children come to, not always those of the process itself.
    if os.stat("/proc/self/ns/time_for_children").st_ino != number:
        raise HbcoreError(
            "this process has called unshare(CLONE_NEWTIME) inside a time namespace, so that nobody can say what its "
            "clock is ahead of the machine's: open the engine before that, or in a child"
        )
    with open("/proc/self/timens_offsets") as file:
        for line in file:
            clock, seconds, nanoseconds = line.split()
            if clock in ("boottime", "7"):  # the first kernels that had this file wrote numbers
                return int(seconds) * 1000 + int(nanoseconds) // 1_000_000
    return 0
