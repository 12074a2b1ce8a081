"""The mapping, with its format, its space, its names, its workers and its clock."""
