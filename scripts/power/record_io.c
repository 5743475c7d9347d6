/* Records what programs do to the files of a folder, for scripts/prove_power.py:
 *   cc -shared -fPIC -O1 -o record_io.so scripts/power/record_io.c -ldl -pthread
 *   RECORD_TO=trace RECORD_UNDER=/a/folder:/another LD_PRELOAD=./record_io.so python ...
 * Each write, cut, sync, creation, renaming and removal below one of RECORD_UNDER is appended to the file RECORD_TO with all its data, and
 * of each send on a socket the beginning. A lock of the kernel on that file is held from before a call until its record is written, so the
 * records of all threads and processes stand in the order in which things happened; whoever wants to add a record takes the lock, too.
 * A -shm is left out: it is mapped and not written, and SQLite makes it anew when the first one opens a database. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, CUT, SYNC, SYNC_FOLDER, CREATE, RENAME, UNLINK, SEND };
enum { SENT_KEPT = 1500 }; /* bytes */

struct record {
  uint32_t kind, pid;
  uint64_t file; /* inode */
  uint64_t at;   /* offset, or the size after a cut */
  uint32_t path, data; /* bytes behind this */
};

#define REAL(name) static typeof(name) *real; if (!real) real = (typeof(name) *)dlsym(RTLD_NEXT, #name)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static pid_t log_pid;

static ssize_t real_writev(int fd, const struct iovec *parts, int count) { REAL(writev); return real(fd, parts, count); }

static int real_open(const char *path, int flags, mode_t mode) {
  static int (*real)(const char *, int, ...);
  if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
  return real(path, flags, mode);
}

/* A lock belongs to what open() gave, which a forked process shares with its parent: each opens its own. */
static void begin(void) {
  pthread_mutex_lock(&mutex);
  if (log_fd < 0 || log_pid != getpid()) {
    const char *path = getenv("RECORD_TO");
    log_fd = path ? real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    log_pid = getpid();
  }
  if (log_fd >= 0) while (flock(log_fd, LOCK_EX) != 0 && errno == EINTR) {}
}

static void end(void) {
  int error = errno;
  if (log_fd >= 0) flock(log_fd, LOCK_UN);
  pthread_mutex_unlock(&mutex);
  errno = error;
}

static void note(uint32_t kind, uint64_t file, uint64_t at, const char *path, const void *data, size_t size) {
  int error = errno;
  struct record head = {kind, (uint32_t)getpid(), file, at, (uint32_t)strlen(path), (uint32_t)size};
  struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)data, size}};
  if (log_fd >= 0 && real_writev(log_fd, parts, 3) != (ssize_t)(sizeof head + head.path + size)) abort();
  errno = error;
}

static int is_ours(const char *path) {
  const char *under = getenv("RECORD_UNDER");
  size_t length = strlen(path);
  if (length > 4 && !strcmp(path + length - 4, "-shm")) return 0;
  while (under && *under) {
    size_t size = strcspn(under, ":");
    if (!strncmp(path, under, size) && (path[size] == '/' || !path[size])) return 1;
    under += size + (under[size] == ':');
  }
  return 0;
}

/* The path of an open file, or 0 when it is not ours. */
static int path_of(int fd, struct stat *facts, char path[PATH_MAX]) {
  char link[64];
  int error = errno, ours = 0;
  if (fstat(fd, facts) == 0 && (S_ISREG(facts->st_mode) || S_ISDIR(facts->st_mode))) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size > 0) path[size] = 0, ours = is_ours(path);
  }
  errno = error;
  return ours;
}

/* A path as it is given to a call, made absolute; 0 when it is not ours. */
static int absolute(int folder, const char *name, char path[PATH_MAX]) {
  char whole[2 * PATH_MAX], link[64];
  int error = errno, ours = 0;
  ssize_t size = 0;
  if (name[0] != '/') {
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    size = readlink(link, whole, PATH_MAX - 1);
    if (size < 0) size = 0;
    whole[size++] = '/';
  }
  snprintf(whole + size, sizeof whole - (size_t)size, "%s", name);
  char *last = strrchr(whole, '/');
  *last = 0;
  char *parent = realpath(*whole ? whole : "/", NULL);
  if (parent) ours = snprintf(path, PATH_MAX, "%s/%s", parent, last + 1) < PATH_MAX && is_ours(path);
  free(parent);
  errno = error;
  return ours;
}

static int opened(int folder, const char *name, int flags, mode_t mode) {
  static int (*real)(int, const char *, int, ...);
  char path[PATH_MAX];
  struct stat facts;
  if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
  if (!(flags & (O_CREAT | O_TRUNC)) || !absolute(folder, name, path)) return real(folder, name, flags, mode);
  begin();
  int was_there = lstat(path, &facts) == 0;
  int fd = real(folder, name, flags, mode);
  if (fd >= 0 && fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode)) {
    if (!was_there) note(CREATE, facts.st_ino, 0, path, "", 0);
    else if (flags & O_TRUNC) note(CUT, facts.st_ino, 0, path, "", 0);
  }
  end();
  return fd;
}

#define MODE(flags) mode_t mode = 0; if ((flags) & O_CREAT) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }

static int is_socket(int fd) {
  struct stat facts;
  int error = errno, socket = fstat(fd, &facts) == 0 && S_ISSOCK(facts.st_mode);
  errno = error;
  return socket;
}

static void note_send(const void *data, size_t size) { /* before it is sent: nobody can have it earlier */
  begin();
  note(SEND, 0, 0, "", data, size < SENT_KEPT ? size : SENT_KEPT);
  end();
}

#define RECORDED(call, at_expression) \
  struct stat facts; char path[PATH_MAX]; \
  if (!path_of(fd, &facts, path)) return call; \
  begin(); \
  ssize_t done = call; \
  if (done > 0) note(WRITE, facts.st_ino, (uint64_t)(at_expression), path, data, (size_t)done); \
  end(); \
  return done

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  if (is_socket(fd)) note_send(data, size);
  RECORDED(real(fd, data, size), lseek(fd, 0, SEEK_CUR) - done);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); RECORDED(real(fd, data, size, at), at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); RECORDED(real(fd, data, size, at), at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev);
  struct stat facts; char path[PATH_MAX];
  if (is_socket(fd) && count) note_send(parts[0].iov_base, parts[0].iov_len);
  if (path_of(fd, &facts, path)) abort(); /* nobody does so */
  return real(fd, parts, count);
}

ssize_t send(int fd, const void *data, size_t size, int flags) { REAL(send); note_send(data, size); return real(fd, data, size, flags); }
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  REAL(sendmsg);
  if (message->msg_iovlen) note_send(message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
  return real(fd, message, flags);
}

static int synced(int fd, int (*real)(int)) {
  struct stat facts; char path[PATH_MAX];
  if (!path_of(fd, &facts, path)) return real(fd);
  begin();
  int done = real(fd);
  if (done == 0) note(S_ISDIR(facts.st_mode) ? SYNC_FOLDER : SYNC, facts.st_ino, 0, path, "", 0);
  end();
  return done;
}
int fsync(int fd) { REAL(fsync); return synced(fd, real); }
int fdatasync(int fd) { REAL(fdatasync); return synced(fd, real); }

#define CUT_TO(call) \
  struct stat facts; char path[PATH_MAX]; \
  if (!path_of(fd, &facts, path)) return call; \
  begin(); \
  int done = call; \
  if (done == 0) note(CUT, facts.st_ino, (uint64_t)size, path, "", 0); \
  end(); \
  return done
int ftruncate(int fd, off_t size) { REAL(ftruncate); CUT_TO(real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); CUT_TO(real(fd, size)); }

int renameat(int a, const char *from, int b, const char *to) {
  REAL(renameat);
  struct stat facts; char source[PATH_MAX], target[PATH_MAX];
  if (!absolute(a, from, source) || !absolute(b, to, target)) return real(a, from, b, to);
  begin();
  int there = lstat(source, &facts) == 0, done = real(a, from, b, to);
  if (done == 0 && there) note(RENAME, facts.st_ino, 0, source, target, strlen(target));
  end();
  return done;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int folder, const char *name, int flags) {
  REAL(unlinkat);
  struct stat facts; char path[PATH_MAX];
  if (flags || !absolute(folder, name, path)) return real(folder, name, flags);
  begin();
  int there = lstat(path, &facts) == 0, done = real(folder, name, flags);
  if (done == 0 && there) note(UNLINK, facts.st_ino, 0, path, "", 0);
  end();
  return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
