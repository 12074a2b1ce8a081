"""Let the kernel refuse a system call to this process, as an older kernel or a sandbox does (seccomp(2))."""

import ctypes
import errno
import os
import platform
import struct

F_OFD_SETLK, F_ADD_SEALS = 37, 1033
# The numbers of the calls on the two machines; 64-bit Arm has no call `link`.
NUMBERS = {
    "x86_64": {"memfd_create": 319, "fcntl": 72, "link": 86, "linkat": 265},
    "aarch64": {"memfd_create": 279, "fcntl": 25, "linkat": 37},
}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # instructions of the filter
NUMBER_AT, SECOND_ARGUMENT_AT = 0, 24  # bytes of struct seccomp_data
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def deny(call: str, code: int, second_argument: int | None = None) -> None:
    """Refuse a system call with an errno from now on; if a second argument is given, only calls with that one."""
    number = NUMBERS[platform.machine()].get(call)
    if number is None:
        return
    program = [(LOAD, 0, 0, NUMBER_AT), (JUMP_IF_EQUAL, 0, 1 if second_argument is None else 3, number)]
    if second_argument is not None:
        program += [(LOAD, 0, 0, SECOND_ARGUMENT_AT), (JUMP_IF_EQUAL, 0, 1, second_argument)]
    program += [(RETURN, 0, 0, REFUSE | code), (RETURN, 0, 0, ALLOW)]
    code_bytes = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code_bytes)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, header, 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def can_deny() -> bool:
    """Return whether this machine lets a process do that: a child tries it."""
    if platform.machine() not in NUMBERS:
        return False
    child = os.fork()
    if child == 0:
        try:
            deny("memfd_create", errno.ENOSYS)
            os.memfd_create("probe")
        except OSError as error:
            os._exit(0 if error.errno == errno.ENOSYS else 1)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0
