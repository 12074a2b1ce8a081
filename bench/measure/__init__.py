"""What is measured with: turns, findings, operations, pages, the facts of the machine, and the limit."""
