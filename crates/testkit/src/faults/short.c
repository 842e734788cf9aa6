/* Every third read or write of a regular file, about, does only a part of what it was asked for, as the system may at any time.
   How many did is counted in the file SHORT_COUNT. For tests, by LD_PRELOAD. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static atomic_ulong *count;
static atomic_ulong state;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SHORT_COUNT"), *seed = getenv("SHORT_SEED");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) count = page;
    if (fd >= 0) close(fd);
    state = seed ? strtoul(seed, 0, 10) | 1 : 1;
}
static size_t part(int fd, size_t size) {
    struct stat is;
    unsigned long drawn = atomic_fetch_add(&state, 0x9e3779b97f4a7c15ul);
    drawn ^= drawn >> 31;
    drawn *= 0xbf58476d1ce4e5b9ul;
    drawn ^= drawn >> 29;
    if (!count || size < 2 || drawn % 3 || syscall(SYS_fstat, fd, &is) || !S_ISREG(is.st_mode)) return size;
    atomic_fetch_add(count, 1);
    return 1 + drawn / 3 % (size - 1);
}
ssize_t read(int fd, void *to, size_t size) { return syscall(SYS_read, fd, to, part(fd, size)); }
ssize_t write(int fd, const void *from, size_t size) { return syscall(SYS_write, fd, from, part(fd, size)); }
ssize_t pread(int fd, void *to, size_t size, off_t at) { return syscall(SYS_pread64, fd, to, part(fd, size), at); }
ssize_t pread64(int fd, void *to, size_t size, off_t at) { return syscall(SYS_pread64, fd, to, part(fd, size), at); }
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    return syscall(SYS_pwrite64, fd, from, part(fd, size), at);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) {
    return syscall(SYS_pwrite64, fd, from, part(fd, size), at);
}
