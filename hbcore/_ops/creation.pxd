# Creation of envelopes, one or many.
from hbcore._file.region cimport Region
from hbcore.budget cimport Budget

cdef object get_envelope(
    Region region, Budget budget, object name, object total, object packets, object law, object min, object max,
    object concentration, object seed, object expires_at, object per_user, object hold_seconds, object max_packets
)
cdef object create_envelopes(
    Region region, Budget budget, object names, object totals, object packets, object law, object min, object max,
    object concentration, object seeds, object expires_at, object per_user, object hold_seconds, object max_packets
)
