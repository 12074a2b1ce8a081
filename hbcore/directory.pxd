# The directory: names to objects.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore.region cimport Region
from hbcore.user cimport UserKey

# Whether a budget has funded the object at an offset, its child: then that is as good as made, whoever died. If it is
# not, it never will be.
ctypedef bint (*funded_function)(Region region, uint64_t offset) except -1

cdef void directory_set_funded(funded_function function) noexcept
cdef void directory_set_appended(funded_function function) noexcept
cdef UserKey name_hash(Region region, uint32_t kind, uint64_t parent, bytes name)

cdef int64_t directory_allocate(Region region, uint64_t size) except -1
cdef bytes extent_name(Region region, uint64_t offset)
cdef bint is_named(Region region, uint64_t offset) except -1
cdef int64_t directory_find(Region region, uint32_t kind, uint64_t parent, bytes name) except? -1
cdef int64_t directory_insert(Region region, uint32_t kind, uint64_t parent, bytes name, uint64_t offset) except? -1
cdef int directory_name(Region region, uint32_t kind, uint64_t parent, bytes name, uint64_t offset) except -1
cdef int retire_extent(Region region, uint64_t offset) except -1
cdef int publish_extent(Region region, uint64_t offset) except -1
