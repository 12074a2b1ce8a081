"""What needs claims and money together: making, topping up, putting right after a reboot, auditing."""
