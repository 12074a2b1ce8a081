# The file format is declared here; format.h says what each field is and who may change it.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hbcore._split.law cimport hb_terms


cdef extern from "format.h" nogil:
    const char *HB_MAGIC
    enum:
        HB_VERSION
        HB_HEADER_SIZE
        HB_WORKER_LIMIT
        HB_DIRECTORY_LEVELS
        HB_UNIT
        HB_GRAIN
        HB_PREFACE
        HB_EPOCH_BITS
        HB_PHASE_MAKING
        HB_PHASE_LIVE
        HB_PHASE_RETIRED
        HB_KIND_DIRECTORY
        HB_KIND_ENVELOPE
        HB_KIND_BUDGET
        HB_KIND_LEVEL
        HB_KIND_TOP_UP
        HB_KIND_TRANCHE
        HB_KIND_TABLE
        HB_SMALL
        HB_HINTS_OFFSET
        HB_LEVELS
        HB_SEGMENTS
    const uint64_t HB_BYTE_ORDER

    struct hb_header:
        char magic[8]
        uint32_t version
        uint32_t header_size
        uint64_t byte_order
        uint64_t capacity
        uint64_t created_at_ms
        unsigned char engine_id[16]
        unsigned char boot_id[16]
        uint64_t key_is_kept
        unsigned char key_check[16]
        unsigned char key[32]
        uint64_t directory_key[2]
        unsigned char check[16]
        uint64_t clock_offset_ms
        uint64_t clock_check
        uint64_t frontier
        uint64_t directory[8]

    struct hb_worker:
        uint64_t epoch
        uint64_t pid
        uint64_t registered_at_ms

    struct hb_extent:
        uint64_t state
        uint32_t kind
        uint16_t name_length
        uint16_t name_offset
        uint64_t parent
        uint64_t created_at_ms
        uint64_t refund[2]
        uint64_t passed_on

    struct hb_hints:
        uint64_t tombstones
        uint64_t next_expiry_ms
        uint64_t late_refunds

    struct hb_envelope:
        hb_extent extent
        hb_terms terms
        unsigned char check[16]
        uint64_t following
        uint64_t closed
        uint64_t index_state
        uint64_t open_count
        uint64_t cleared_count
        uint64_t second_table
        hb_hints hints

    struct hb_hold:
        uint64_t key[2]
        uint64_t state
        uint64_t value
        uint64_t amount
        uint64_t link

    struct hb_budget:
        hb_extent extent
        uint64_t total
        unsigned char check[16]
        uint64_t levels[16]
        uint64_t segments[32]
        uint64_t money[2]
        uint64_t next
        uint64_t pledged
        uint64_t completed

    struct hb_top_up:
        hb_extent extent
        uint64_t total
        uint64_t key[2]
        unsigned char check[16]

    struct hb_tranche:
        hb_extent extent
        uint64_t total
        uint64_t packets
        uint64_t key[2]
        unsigned char seed[32]
        unsigned char check[16]
        uint64_t following

    struct hb_slot:
        uint64_t state
        uint64_t user[2]
        uint64_t amount


cdef inline uint64_t whole_units(uint64_t size) noexcept nogil:
    return (size + HB_UNIT - 1) // HB_UNIT * HB_UNIT
