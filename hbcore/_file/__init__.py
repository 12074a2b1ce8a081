"""The mapping: its format, its space, its names, its workers and its clock."""
