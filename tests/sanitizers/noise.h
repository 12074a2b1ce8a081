#ifndef HBCORE_SANITIZERS_NOISE_H
#define HBCORE_SANITIZERS_NOISE_H

void hb_schedule(const char *operation, const void *address);

/* Run operation(argument). Before each of its atomic operations it dies with a chance of one in `odds`, if that is not 0.
 * Returns 1, or 0 if it has died. */
int noise_run(void (*operation)(void *), void *argument, unsigned odds);

#endif
