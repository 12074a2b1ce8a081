# The engine: the public class.
from hbcore.region cimport Region


cdef class Engine:
    cdef Region region
    cdef object __weakref__
