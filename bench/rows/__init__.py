"""What is measured: each room has the rows of one subject."""
