"""Claims: slots, the index that finds them, the free map, and what a packet is worth."""
