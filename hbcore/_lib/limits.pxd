# The limits that the core checks for itself. They are the same as in hbcore.terms; a test compares them.
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    NAME_LIMIT = 255            # bytes of UTF-8
    CONCENTRATION_LIMIT = 64
    PER_USER_LIMIT = 1 << 16
    TOP_UP_LIMIT = 1024
    SEED_SIZE = 32              # bytes

cdef extern from *:
    """
    #define HB_TOTAL_LIMIT (INT64_C(1) << 62)
    #define HB_PACKET_LIMIT (UINT64_C(1) << 40)
    """
    const int64_t TOTAL_LIMIT "HB_TOTAL_LIMIT"          # every amount in minor units is below this
    const uint64_t PACKET_LIMIT "HB_PACKET_LIMIT"       # every number of packets is below this
