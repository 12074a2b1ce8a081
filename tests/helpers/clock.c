/* Preloaded before a process: a clock that tests can set. The offsets, in ns, stand in the file that CLOCK_FILE names:
 * of CLOCK_REALTIME and its kin, and of CLOCK_BOOTTIME; then by how much CLOCK_BOOTTIME goes on at each reading, so that
 * time passes between any two steps of one thread. CLOCK_MONOTONIC stays as it is, as it does in a suspend. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offsets;
static int64_t ticked;

__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("CLOCK_FILE"), O_RDONLY);
    void *mapping = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || mapping == MAP_FAILED)
        abort();
    offsets = mapping;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    int64_t offset = 0;
    if (status != 0 || offsets == NULL)
        return status;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        offset = offsets[0];
    else if (clock == CLOCK_BOOTTIME)
        offset = offsets[1] + (ticked += offsets[2]);
    offset += (int64_t)now->tv_sec * 1000000000 + now->tv_nsec;
    now->tv_sec = offset / 1000000000;
    now->tv_nsec = offset % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
