/* Kills its process at one step of its work on the disk, for scripts/prove_kills.py:
 *   cc -shared -fPIC -O1 -o kill_at.so scripts/kill_at.c -ldl
 *   KILL_AT=17 LD_PRELOAD=./kill_at.so python ...
 * A step is a call that writes, syncs, cuts, renames or removes a file. They are counted from the moment when the program calls
 * kill_at_begin(), over all threads; the one with the number KILL_AT does not happen any more. kill_at_steps() tells how many there were. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long steps = -1; /* below 0: not begun */
static long kill_at;

void kill_at_begin(void) {
  const char *text = getenv("KILL_AT");
  kill_at = text ? atol(text) : 0;
  atomic_store(&steps, 0);
}

long kill_at_steps(void) { return atomic_load(&steps); }

static void step(void) {
  if (atomic_load(&steps) >= 0 && atomic_fetch_add(&steps, 1) + 1 == kill_at) kill(getpid(), SIGKILL);
}

static int is_file(int fd) {
  struct stat facts;
  return fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode);
}

#define REAL(name) static typeof(name) *real; if (!real) real = (typeof(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) { REAL(write); if (is_file(fd)) step(); return real(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev); if (is_file(fd)) step(); return real(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); step(); return real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); step(); return real(fd, data, size, at); }
int fsync(int fd) { REAL(fsync); step(); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); step(); return real(fd); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); step(); return real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); step(); return real(fd, size); }
int rename(const char *from, const char *to) { REAL(rename); step(); return real(from, to); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); step(); return real(a, from, b, to); }
int unlink(const char *path) { REAL(unlink); step(); return real(path); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); step(); return real(folder, path, flags); }
