/* Makes a real process meet faults: loaded before the C library (LD_PRELOAD), it lets chosen
 * system calls fail. What fails is read from a page that the test has mapped too, so that faults
 * come and go while the process runs. tests/support/faults.py has the other end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    _Atomic int64_t write_error;     /* errno of writes to the database's files; 0: none */
    _Atomic int64_t fsync_error;     /* likewise for fsync and fdatasync */
    _Atomic int64_t fsync_failures;  /* how many more of them fail; below 0: all */
    _Atomic int64_t read_error;
    _Atomic int64_t short_writes;    /* how many more writes are cut in half */
    _Atomic int64_t clock_ns;        /* added to the wall clock */
    _Atomic int64_t thread_error;    /* what pthread_create returns */
    _Atomic int64_t fsync_hangs;     /* whether fsync and fdatasync do not return */
    _Atomic int64_t met;             /* how many calls have met a fault */
} faults;

static faults none;
static faults *page = &none;
static const char *named = "pkarr-relay.sqlite3";

__attribute__((constructor)) static void map_page(void)
{
    const char *path = getenv("PKARR_TEST_FAULTS");
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof(faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        page = at;
}

/* Whether a descriptor is one of the database's files. */
static bool concerned(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return false;
    path[size] = 0;
    return strstr(path, named) != NULL;
}

static bool fails(_Atomic int64_t *error, int fd)
{
    int64_t code = atomic_load(error);
    if (code == 0 || !concerned(fd))
        return false;
    atomic_fetch_add(&page->met, 1);
    errno = (int)code;
    return true;
}

static bool one_of(_Atomic int64_t *count)
{
    int64_t left = atomic_load(count);
    while (left > 0)
        if (atomic_compare_exchange_weak(count, &left, left - 1))
            return true;
    return left < 0;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define POSITIONED_WRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type at) \
    { \
        REAL(name); \
        if (fails(&page->write_error, fd)) \
            return -1; \
        if (size > 1 && atomic_load(&page->short_writes) && concerned(fd) && \
            one_of(&page->short_writes)) { \
            atomic_fetch_add(&page->met, 1); \
            return real(fd, data, size / 2, at); \
        } \
        return real(fd, data, size, at); \
    }

POSITIONED_WRITE(pwrite, off_t)
POSITIONED_WRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    return fails(&page->write_error, fd) ? -1 : real(fd, data, size);
}

#define POSITIONED_READ(name, offset_type) \
    ssize_t name(int fd, void *data, size_t size, offset_type at) \
    { \
        REAL(name); \
        return fails(&page->read_error, fd) ? -1 : real(fd, data, size, at); \
    }

POSITIONED_READ(pread, off_t)
POSITIONED_READ(pread64, off64_t)

#define SYNC(name) \
    int name(int fd) \
    { \
        REAL(name); \
        while (atomic_load(&page->fsync_hangs) && concerned(fd)) { \
            atomic_fetch_add(&page->met, 1); \
            usleep(10000); \
        } \
        int64_t code = atomic_load(&page->fsync_error); \
        if (code != 0 && concerned(fd) && one_of(&page->fsync_failures)) { \
            atomic_fetch_add(&page->met, 1); \
            errno = (int)code; \
            return -1; \
        } \
        return real(fd); \
    }

SYNC(fsync)
SYNC(fdatasync)

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    int failed = real(clock, now);
    int64_t shift = atomic_load(&page->clock_ns);
    if (failed == 0 && clock == CLOCK_REALTIME && shift != 0) {
        int64_t ns = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + shift;
        now->tv_sec = ns / INT64_C(1000000000);
        now->tv_nsec = ns % INT64_C(1000000000);
    }
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *argument)
{
    REAL(pthread_create);
    int64_t code = atomic_load(&page->thread_error);
    if (code != 0) {
        atomic_fetch_add(&page->met, 1);
        return (int)code;
    }
    return real(thread, attributes, run, argument);
}
