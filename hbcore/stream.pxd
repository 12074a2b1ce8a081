# The public cimport path of the keyed stream; see _split/stream.pxd.
from hbcore._split.stream cimport *
