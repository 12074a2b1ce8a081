# The engine: the public class.
from libc.stdint cimport uint32_t

from hbcore._file.region cimport Region


cdef class Engine:
    cdef Region region
    cdef object __weakref__

    cdef list objects(self, uint32_t kind)
