/* A disk that fails: preloaded, it lets reading or writing of some files fail. Set FAIL_PATH (part of the file's path),
   FAIL_OP (read or write), FAIL_ERRNO, and FAIL_AFTER (bytes that go well in each process, 0 without). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long passed;

static int fails(int descriptor, const char *operation, size_t size) {
    const char *part = getenv("FAIL_PATH"), *wanted = getenv("FAIL_OP"), *after = getenv("FAIL_AFTER");
    char link[64], path[4096];
    if (!part || !wanted || strcmp(wanted, operation)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, part)) return 0;
    passed += size;
    if (passed <= (after ? atol(after) : 0)) return 0;
    errno = atoi(getenv("FAIL_ERRNO"));
    return 1;
}

#define WRAP(type, name, operation, size, arguments, ...)                                                              \
    type name arguments {                                                                                              \
        static type(*real) arguments;                                                                                  \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                                     \
        return fails(fd, operation, size) ? -1 : real(__VA_ARGS__);                                                    \
    }

WRAP(ssize_t, read, "read", n, (int fd, void *data, size_t n), fd, data, n)
WRAP(ssize_t, pread, "read", n, (int fd, void *data, size_t n, off_t at), fd, data, n, at)
WRAP(ssize_t, pread64, "read", n, (int fd, void *data, size_t n, off64_t at), fd, data, n, at)
WRAP(ssize_t, write, "write", n, (int fd, const void *data, size_t n), fd, data, n)
WRAP(ssize_t, pwrite, "write", n, (int fd, const void *data, size_t n, off_t at), fd, data, n, at)
WRAP(ssize_t, pwrite64, "write", n, (int fd, const void *data, size_t n, off64_t at), fd, data, n, at)
WRAP(ssize_t, writev, "write", 1, (int fd, const struct iovec *data, int n), fd, data, n)
WRAP(int, fsync, "write", 0, (int fd), fd)
WRAP(int, fdatasync, "write", 0, (int fd), fd)
