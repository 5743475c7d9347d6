/* A clock that is wrong by as many seconds as the file CLOCK_OFF_BY says, which may change at any time:
 *
 *     cc -O2 -shared -fPIC -o wrong_clock.so wrong_clock.c
 *     CLOCK_OFF_BY=clock LD_PRELOAD=./wrong_clock.so python ...
 *
 * The file holds one int64 and is mapped. Only the time of day is wrong, for everybody in the process (Python, SQLite, OpenSSL); what
 * counts from the start of the machine is not, as when an administrator, or NTP, sets the clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *off_by;

__attribute__((constructor)) static void map_it(void)
{
    const char *path = getenv("CLOCK_OFF_BY");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *off_by, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        abort();
    off_by = mapped;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    int rc = syscall(SYS_clock_gettime, id, now);
    if (rc == 0 && off_by && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += *off_by;
    return rc;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    int rc = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return rc;
}

time_t time(time_t *now)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
