# Topping up a live envelope.
from libc.stdint cimport uint64_t

from hbcore._file.region cimport Region

cdef bint is_appended(Region region, uint64_t offset) except -1
