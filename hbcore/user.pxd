# The public cimport path of the user hashes; see _keys/user.pxd.
from hbcore._keys.user cimport *
