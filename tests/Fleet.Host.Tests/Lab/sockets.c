/* Both ends of sockets between a guest and its host, static, for inside a guest and for the host beside it.
 *   sockets echo vsock PORT | echo unix PATH          gives back whatever comes, for ever
 *   sockets check vsock PORT COUNT BYTES              so many connections at once to the host, each with so many bytes of
 *   sockets check unix PATH PORT COUNT BYTES          its own; prints how many came back as they were
 */
#define _GNU_SOURCE
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int named(int vsock, const char *where, int listening) {
  int fd = socket(vsock ? AF_VSOCK : AF_UNIX, SOCK_STREAM, 0);
  struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_cid = listening ? VMADDR_CID_ANY : VMADDR_CID_HOST, .svm_port = vsock ? atoi(where) : 0};
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  strncpy(un.sun_path, where, sizeof un.sun_path - 1);
  struct sockaddr *address = vsock ? (struct sockaddr *)&vm : (struct sockaddr *)&un;
  socklen_t length = vsock ? sizeof vm : sizeof un;
  if (fd < 0) fail("socket");
  if (listening ? bind(fd, address, length) || listen(fd, 128) : connect(fd, address, length)) fail(where);
  return fd;
}

static void echo(int listener) {
  static char buffer[65536];
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0 || fork()) {
      close(fd);
      continue;
    }
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
      for (ssize_t put = 0, more; put < got; put += more)
        if ((more = write(fd, buffer + put, got - put)) <= 0) exit(1);
    exit(0);
  }
}

static uint32_t step(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  return *state ^= *state << 5;
}

static int check(int fd, const char *port, uint32_t seed, long bytes) {
  static char buffer[4096];
  if (port) {
    char line[64];
    int length = snprintf(line, sizeof line, "CONNECT %s\n", port), at = 0;
    if (write(fd, line, length) != length) return 1;
    do
      if (read(fd, line + at, 1) != 1) return 1;
    while (line[at++] != '\n');
    if (strncmp(line, "OK ", 3)) return 1;
  }
  uint32_t out = seed, in = seed;
  if (!fork()) {
    for (long put = 0; put < bytes;) {
      long part = bytes - put < (long)sizeof buffer ? bytes - put : (long)sizeof buffer;
      for (long i = 0; i < part; i++) buffer[i] = step(&out);
      for (long done = 0, more; done < part; done += more)
        if ((more = write(fd, buffer + done, part - done)) <= 0) exit(1);
      put += part;
    }
    shutdown(fd, SHUT_WR);
    exit(0);
  }
  long total = 0;
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0; total += got)
    for (ssize_t i = 0; i < got; i++)
      if (buffer[i] != (char)step(&in)) return 1;
  return total != bytes;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  int vsock = !strcmp(argv[2], "vsock"), status, good = 0;
  signal(SIGPIPE, SIG_IGN);
  if (!strcmp(argv[1], "echo")) echo(named(vsock, argv[3], 1));
  int count = atoi(argv[argc - 2]);
  long bytes = atol(argv[argc - 1]);
  for (int i = 0; i < count; i++)
    if (!fork()) exit(check(named(vsock, argv[3], 0), vsock ? NULL : argv[4], 7919 * (i + 1), bytes));
  while (wait(&status) > 0) good += WIFEXITED(status) && WEXITSTATUS(status) == 0;
  printf("%d of %d came back\n", good, count);
  return good != count;
}
