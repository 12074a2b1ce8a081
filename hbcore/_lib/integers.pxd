# Python ints of 64 bits are read where they lie; see integers.h.

cdef extern from "integers.h":
    int hb_read_integer(object number, long long *value)
