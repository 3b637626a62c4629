/* Load generator of the lab's benchmarks, static, for inside a guest and for the node beside it.
 *   load disk DEVICE BLOCK DEPTH SECONDS r|s   reads: operations a second, by Linux's own asynchronous interface, past the page cache
 *   load send ADDRESS PORT SECONDS             TCP: sends, and prints MB a second that the other side received
 *   load receive ADDRESS PORT SECONDS          TCP: receives, and prints MB a second
 *   load serve PORT                            the other side of both, for ever
 *   load echo PORT                             vsock: gives back what comes, of one connection after the other and of several at once
 *   load vsend PORT SECONDS                    vsock: sends to the host
 *   load take PATH                             the other side of it: takes one connection to a Unix socket to its end, and prints MB a second
 *   load until MARK PROGRAM WORDS...           runs it until MARK is in what it prints, and ends it: ms, and its CPU
 *                                              time in ms: in the guest, else in user mode, in the kernel
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 128 << 10, DEEPEST = 64 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t next_random(void) {
  static uint64_t state = 88172645463325252ull;
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static int disk(const char *path, long block, int depth, double seconds, int random) {
  uint64_t size, done = 0, position = 0;
  aio_context_t context = 0;
  struct iocb requests[DEEPEST], *list[DEEPEST];
  struct io_event events[DEEPEST];
  int fd = open(path, O_RDONLY | O_DIRECT);
  if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size)) fail(path);
  if (syscall(SYS_io_setup, depth, &context)) fail("io_setup");
  uint64_t blocks = size / block;
  for (int i = 0; i < depth; i++) {
    memset(&requests[i], 0, sizeof requests[i]);
    requests[i].aio_fildes = fd;
    requests[i].aio_lio_opcode = IOCB_CMD_PREAD;
    void *buffer;
    if (posix_memalign(&buffer, 4096, block)) fail("memory");
    requests[i].aio_buf = (uint64_t)(uintptr_t)buffer;
    requests[i].aio_nbytes = block;
    requests[i].aio_data = i;
    requests[i].aio_offset = (random ? next_random() % blocks : position++ % blocks) * block;
    list[i] = &requests[i];
  }
  double begun = now(), end = begun + seconds;
  if (syscall(SYS_io_submit, context, depth, list) != depth) fail("io_submit");
  while (now() < end) {
    int got = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
    if (got < 1) fail("io_getevents");
    for (int i = 0; i < got; i++) {
      if (events[i].res != block) fail("read");
      struct iocb *request = &requests[events[i].data];
      request->aio_offset = (random ? next_random() % blocks : position++ % blocks) * block;
      list[i] = request;
    }
    done += got;
    if (syscall(SYS_io_submit, context, got, list) != got) fail("io_submit");
  }
  printf("RESULT %.1f\n", done / (now() - begun));
  return 0;
}

static int dial(const char *address, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  inet_pton(AF_INET, address, &to.sin_addr);
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
  return fd;
}

static uint64_t take(int fd, double seconds) {
  static char buffer[BUFFER];
  uint64_t total = 0;
  double end = now() + seconds;
  ssize_t got;
  while (now() < end && (got = read(fd, buffer, sizeof buffer)) > 0) total += got;
  return total;
}

static void give(int fd, double seconds) {
  static char buffer[BUFFER];
  double end = now() + seconds;
  while (now() < end && write(fd, buffer, sizeof buffer) > 0) {}
}

static int until(const char *mark, char **command) {
  static char seen[1 << 20];
  size_t length = 0;
  int out[2], input[2];
  if (pipe(out) || pipe(input)) fail("pipe");
  double begun = now();
  pid_t child = fork();
  if (child == 0) {
    dup2(input[0], 0);
    dup2(out[1], 1);
    close(input[1]);
    execv(command[0], command);
    fail(command[0]);
  }
  close(out[1]);
  for (;;) {
    ssize_t got = read(out[0], seen + length, sizeof seen - 1 - length);
    if (got <= 0) break;
    length += got;
    seen[length] = 0;
    if (!strstr(seen, mark)) continue;
    double ms = (now() - begun) * 1000;
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", child);
    FILE *stat = fopen(path, "r");
    if (!stat || !fgets(line, sizeof line, stat)) fail(path);
    fclose(stat);

    /* proc(5): fields 14 and 15 are user and system time, 43 is the part of the first that was in a guest. */
    unsigned long value[44];
    char *word = strrchr(line, ')') + 2;
    for (int field = 3; field < 44 && word; field++) {
      value[field] = strtoul(word, NULL, 10);
      word = strchr(word, ' ');
      if (word) word++;
    }
    double tick = 1000.0 / sysconf(_SC_CLK_TCK);
    printf("RESULT %.1f %.0f %.0f %.0f\n", ms, value[43] * tick, (value[14] - value[43]) * tick, value[15] * tick);
    kill(child, SIGTERM); /* in order: it writes what it has counted */
    while (waitpid(child, NULL, WNOHANG) == 0) {
      if (now() > begun + ms / 1000 + 10) kill(child, SIGKILL);
      if (poll(&(struct pollfd){.fd = out[0], .events = POLLIN}, 1, 20) > 0) length = read(out[0], seen, sizeof seen);
    }
    return 0;
  }
  fprintf(stderr, "it ended without %s: %s\n", mark, seen);
  return 1;
}

static void serve(int port) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4)) fail("listen");
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    unsigned char what[2]; /* one that sends for as long as it is told ends the connection in order: a reset may be lost on its way through a firewall */
    if (fd < 0 || read(fd, what, sizeof what) != sizeof what) continue;
    if (what[0] == 'r') {
      give(fd, what[1]);
    } else {
      uint64_t total = take(fd, 3600);
      write(fd, &total, sizeof total);
    }
    close(fd);
  }
}

static void echo(int port) {
  enum { MOST = 16 };
  struct sockaddr_vm at = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
  struct pollfd open[1 + MOST] = {{.fd = socket(AF_VSOCK, SOCK_STREAM, 0), .events = POLLIN}};
  int count = 1;
  char bytes[4096];
  if (bind(open[0].fd, (struct sockaddr *)&at, sizeof at) || listen(open[0].fd, MOST)) fail("listen");
  while (poll(open, count, -1) > 0) {
    for (int i = count - 1; i > 0; i--) {
      if (!open[i].revents) continue;
      ssize_t got = read(open[i].fd, bytes, sizeof bytes);
      if (got > 0 && write(open[i].fd, bytes, got) == got) continue;
      close(open[i].fd);
      open[i] = open[--count];
    }
    if (open[0].revents && count <= MOST) open[count++] = (struct pollfd){.fd = accept(open[0].fd, NULL, NULL), .events = POLLIN};
  }
}

static int vsend(int port, double seconds) {
  struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
  give(fd, seconds);
  return 0;
}

static int take_one(const char *path) {
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1)) fail("listen");
  int fd = accept(listener, NULL, NULL);
  double begun = now();
  uint64_t total = take(fd, 3600);
  printf("RESULT %.3f\n", total / (now() - begun) / 1e6);
  return 0;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 7 && !strcmp(argv[1], "disk"))
    return disk(argv[2], atol(argv[3]), atoi(argv[4]), atof(argv[5]), argv[6][0] == 'r');
  if (argc == 3 && !strcmp(argv[1], "serve")) serve(atoi(argv[2]));
  if (argc == 3 && !strcmp(argv[1], "echo")) echo(atoi(argv[2]));
  if (argc == 4 && !strcmp(argv[1], "vsend")) return vsend(atoi(argv[2]), atof(argv[3]));
  if (argc == 3 && !strcmp(argv[1], "take")) return take_one(argv[2]);
  if (argc >= 4 && !strcmp(argv[1], "until")) return until(argv[2], argv + 3);
  if (argc == 5) {
    double seconds = atof(argv[4]), begun;
    uint64_t total = 0;
    int fd = dial(argv[2], atoi(argv[3]));
    int sends = !strcmp(argv[1], "send");
    write(fd, (unsigned char[]){sends ? 's' : 'r', (unsigned char)seconds}, 2);
    begun = now();
    if (sends) {
      give(fd, seconds);
      shutdown(fd, SHUT_WR);
      read(fd, &total, sizeof total);
    } else {
      total = take(fd, 3600);
    }
    printf("RESULT %.3f\n", total / (now() - begun) / 1e6);
    return 0;
  }
  return 2;
}
