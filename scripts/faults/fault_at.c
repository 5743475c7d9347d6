/* Kills its process at one step of its work on the disk, or lets that step fail, for scripts/prove_faults.py:
 *   cc -shared -fPIC -O1 -o fault_at.so scripts/faults/fault_at.c -ldl
 *   LD_PRELOAD=./fault_at.so python ...
 * A step is a call that makes, writes, syncs, cuts, renames, links or removes a file or a folder. They are counted from fault_begin() on,
 * over all threads. A full disk (ENOSPC) refuses only what takes room: it counts these alone, and at first takes half of what is written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { HOLDS = 0, TAKES_ROOM = 1, MOST = 1 << 16 };

static atomic_int counting, failing;
static atomic_long steps, room, hits;
static long fault_at;
static int fault_error, fault_lasts;
static int marks[2][MOST]; /* of all steps, and of those that take room: which call on which file each of the first was */

/* From here on steps are counted. The one with the number `at` (0: none) does not happen: it ends the process (`error` 0) or fails with
 * `error`, and all that come after it too if it `lasts`. */
void fault_begin(long at, int error, int lasts) {
  fault_at = at, fault_error = error, fault_lasts = lasts;
  atomic_store(&steps, 0), atomic_store(&room, 0), atomic_store(&hits, 0);
  atomic_store(&failing, 1), atomic_store(&counting, 1);
  access("/fault-begin", F_OK); /* for strace */
}

/* From here on nothing fails any more; how many calls did until now. */
long fault_over(void) {
  atomic_store(&failing, 0);
  return atomic_load(&hits);
}

/* Counting ends; how many steps there were, of those that a full disk refuses if `taking_room`. */
long fault_end(int taking_room) {
  if (atomic_exchange(&counting, 0)) access("/fault-end", F_OK);
  return atomic_load(taking_room ? &room : &steps);
}

/* Equal for equal calls on the same file, for the step with this number. */
int fault_mark(long number, int taking_room) { return number < MOST ? marks[taking_room][number] : 0; }

/* The number of the error that the step at hand meets, 0 when it is to happen. */
static int step_of(int takes, int mark) {
  if (!atomic_load(&counting)) return 0;
  long all = atomic_fetch_add(&steps, 1) + 1, taking = takes ? atomic_fetch_add(&room, 1) + 1 : 0;
  if (all < MOST) marks[0][all] = mark;
  if (taking < MOST) marks[1][taking] = mark;
  long number = fault_error == ENOSPC ? taking : all;
  if (!fault_at || !number || !atomic_load(&failing)) return 0;
  if (fault_lasts ? number < fault_at : number != fault_at) return 0;
  if (!fault_error) kill(getpid(), SIGKILL);
  atomic_fetch_add(&hits, 1);
  return fault_error;
}

static int is_file(int fd) {
  struct stat facts;
  return fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode);
}

static int grows(int fd, off_t size) {
  struct stat facts;
  return fstat(fd, &facts) == 0 && size > facts.st_size;
}

/* How much of `size` bytes is written although the disk is full: half, the first time. */
static size_t half(int error, size_t size) { return error == ENOSPC && atomic_load(&hits) == 1 ? size / 2 : 0; }

#define REAL(name) static typeof(name) *real; if (!real) real = (typeof(name) *)dlsym(RTLD_NEXT, #name)
#define MARK(fd) (__LINE__ * 1024 + (fd) % 1024)
#define STEP(takes, fd) do { int error = step_of(takes, MARK(fd)); if (error) { errno = error; return -1; } } while (0)
#define WRITE(call_some) do { int error = step_of(TAKES_ROOM, MARK(fd)); if (error) { \
  size_t some = half(error, size); if (some) return call_some; errno = error; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) { REAL(write); if (is_file(fd)) WRITE(real(fd, data, some)); return real(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev); if (is_file(fd)) STEP(TAKES_ROOM, fd); return real(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); WRITE(real(fd, data, some, at)); return real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); WRITE(real(fd, data, some, at)); return real(fd, data, size, at); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { REAL(pwritev); STEP(TAKES_ROOM, fd); return real(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { REAL(pwritev64); STEP(TAKES_ROOM, fd); return real(fd, parts, count, at); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) { REAL(sendfile); if (is_file(to)) STEP(TAKES_ROOM, to); return real(to, from, at, size); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { REAL(sendfile64); if (is_file(to)) STEP(TAKES_ROOM, to); return real(to, from, at, size); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) { REAL(copy_file_range); STEP(TAKES_ROOM, to); return real(from, a, to, b, size, flags); }
int posix_fallocate(int fd, off_t at, off_t size) { REAL(posix_fallocate); int error = step_of(TAKES_ROOM, MARK(fd)); return error ? error : real(fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { REAL(posix_fallocate64); int error = step_of(TAKES_ROOM, MARK(fd)); return error ? error : real(fd, at, size); }
int fallocate(int fd, int mode, off_t at, off_t size) { REAL(fallocate); STEP(TAKES_ROOM, fd); return real(fd, mode, at, size); }
int fallocate64(int fd, int mode, off64_t at, off64_t size) { REAL(fallocate64); STEP(TAKES_ROOM, fd); return real(fd, mode, at, size); }
int fsync(int fd) { REAL(fsync); STEP(TAKES_ROOM, fd); return real(fd); } /* where room is given late, a sync finds that there is none */
int fdatasync(int fd) { REAL(fdatasync); STEP(TAKES_ROOM, fd); return real(fd); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); STEP(grows(fd, size), fd); return real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); STEP(grows(fd, size), fd); return real(fd, size); }
int truncate(const char *path, off_t size) { REAL(truncate); STEP(HOLDS, 0); return real(path, size); }
int truncate64(const char *path, off64_t size) { REAL(truncate64); STEP(HOLDS, 0); return real(path, size); }
int rename(const char *from, const char *to) { REAL(rename); STEP(HOLDS, 0); return real(from, to); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); STEP(HOLDS, 0); return real(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { REAL(renameat2); STEP(HOLDS, 0); return real(a, from, b, to, flags); }
int link(const char *from, const char *to) { REAL(link); STEP(TAKES_ROOM, 0); return real(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { REAL(linkat); STEP(TAKES_ROOM, 0); return real(a, from, b, to, flags); }
int unlink(const char *path) { REAL(unlink); STEP(HOLDS, 0); return real(path); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); STEP(HOLDS, 0); return real(folder, path, flags); }
int rmdir(const char *path) { REAL(rmdir); STEP(HOLDS, 0); return real(path); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); STEP(TAKES_ROOM, 0); return real(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); STEP(TAKES_ROOM, 0); return real(folder, path, mode); }

/* To open is a step where it may make the file, or cuts it. */
#define OPEN(missing) \
  mode_t mode = 0; \
  if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } \
  if (flags & (O_CREAT | O_TRUNC)) STEP((flags & O_CREAT) && (missing), 1023)

int open(const char *path, int flags, ...) { REAL(open); OPEN(access(path, F_OK)); return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { REAL(open64); OPEN(access(path, F_OK)); return real(path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { REAL(openat); OPEN(faccessat(folder, path, F_OK, 0)); return real(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { REAL(openat64); OPEN(faccessat(folder, path, F_OK, 0)); return real(folder, path, flags, mode); }
