"""The operations that need claims and money together: making, topping up, recovering after a reboot, auditing."""
