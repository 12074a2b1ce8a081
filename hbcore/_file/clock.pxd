# The clocks of grants, lapses and expiries; see clock.h.
from libc.stdint cimport uint64_t

cdef extern from "clock.h" nogil:
    uint64_t hb_now_ms() noexcept
    uint64_t hb_boot_ms() noexcept
