# The public cimport path of the laws; what is here is argued in _split/law.pxd.
from hbcore._split.law cimport *
