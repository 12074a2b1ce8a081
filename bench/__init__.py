"""How fast hbcore is: ``python -m bench``, from the root of the tree, says what there is to measure.

A module of this folder is a command: its options, the order of its turns and what it prints. ``rows`` has what is
measured, ``measure`` what it is measured with, ``drawing`` the pictures, and ``suite`` is run by pytest-benchmark.
"""

from bench.installed import prefer_installed

prefer_installed()  # before anything of the benches imports hbcore
