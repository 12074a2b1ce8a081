"""The measurements: each module has the rows of one subject."""
