# The directory leads from names to objects.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey

# Say whether a budget has funded its child, the object at an offset. If so, the object is as good as made, whichever
# process has died. If not, it never will be funded.
ctypedef bint (*funded_function)(Region region, uint64_t offset) except -1


cdef struct Name:           # the name of an object, its parent, and the hash under which the directory knows it
    uint32_t kind
    uint64_t parent         # offset of its budget; 0: the engine
    const unsigned char *text
    uint64_t length
    UserKey key


cdef void directory_set_funded(funded_function function) noexcept
cdef void directory_set_appended(funded_function function) noexcept
cdef void name_set(
    Region region, uint32_t kind, uint64_t parent, const unsigned char *text, uint64_t length, Name *name
) noexcept nogil
cdef size_t name_message(const Name *name, unsigned char *message) noexcept nogil
cdef UserKey name_hash(Region region, uint32_t kind, uint64_t parent, bytes name)

cdef int64_t directory_allocate(Region region, uint64_t size) except -1 nogil
cdef bytes extent_name(Region region, uint64_t offset)
cdef bint is_named(Region region, uint64_t offset) except -1
cdef void directory_prefetch(Region region, const Name *name) noexcept nogil
cdef int64_t directory_find(Region region, const Name *name) except -1 nogil
cdef int64_t directory_insert(Region region, const Name *name, uint64_t offset) except -1 nogil
cdef int directory_name(Region region, const Name *name, uint64_t offset) except -1 nogil
cdef int retire_extent(Region region, uint64_t offset) except -1 nogil
cdef int publish_extent(Region region, uint64_t offset) except -1 nogil
