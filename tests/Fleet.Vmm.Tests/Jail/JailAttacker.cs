namespace Fleet.Vmm.Tests.Jail;

/// <summary>A hostile program. Its last argument says what to try; it ends with 0 when that was denied, with 1 when it worked.</summary>
internal static class JailAttacker
{
    public const string Source = """
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <netinet/in.h>
        #include <sched.h>
        #include <signal.h>
        #include <stddef.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <linux/capability.h>
        #include <sys/mman.h>
        #include <sys/mount.h>
        #include <sys/prctl.h>
        #include <sys/ptrace.h>
        #include <sys/resource.h>
        #include <sys/socket.h>
        #include <sys/stat.h>
        #include <sys/sysmacros.h>
        #include <sys/syscall.h>
        #include <sys/uio.h>
        #include <sys/un.h>
        #include <sys/wait.h>
        #include <unistd.h>

        extern char **environ;

        static void worked(int yes) { _exit(yes ? 1 : 0); }

        int main(int count, char **arguments)
        {
            char *what = arguments[count - 1];
            char *value = strchr(what, ':');
            if (value) *value++ = 0;
            int number = value ? atoi(value) : 0;

            if (!strcmp(what, "sleep")) for (;;) pause();
            if (!strcmp(what, "open")) worked(open(value, O_RDONLY) >= 0);
            if (!strcmp(what, "create")) worked(open(value, O_WRONLY | O_CREAT, 0600) >= 0);
            if (!strcmp(what, "climb")) {
                int i;
                for (i = 0; i < 64; i++) chdir("..");
                worked(access("etc/passwd", F_OK) == 0 || access("usr", F_OK) == 0);
            }
            if (!strcmp(what, "handle")) {
                struct { struct file_handle head; char bytes[16]; } handle = { { 8, 1 } };
                worked(syscall(SYS_open_by_handle_at, 0, &handle, O_RDONLY) >= 0 || errno != EPERM);
            }
            if (!strcmp(what, "chroot")) worked(chroot("/dev") == 0);
            if (!strcmp(what, "mount")) worked(mount("none", "/dev", "tmpfs", 0, 0) == 0 || mount("proc", "/dev", "proc", 0, 0) == 0);
            if (!strcmp(what, "umount")) worked(umount2("/", MNT_DETACH) == 0);
            if (!strcmp(what, "remount")) worked(mount("none", "/", 0, MS_REMOUNT | MS_BIND, 0) == 0);
            if (!strcmp(what, "mknod")) worked(mknod("/disk", S_IFBLK | 0600, makedev(254, 0)) == 0 || mknod("/dev/mem", S_IFCHR | 0600, makedev(1, 1)) == 0);

            if (!strcmp(what, "signal")) worked(kill(number, 0) == 0 || kill(-1, 0) == 0);
            if (!strcmp(what, "ptrace")) worked(ptrace(PTRACE_ATTACH, number, 0, 0) == 0);
            if (!strcmp(what, "pidfd")) worked(syscall(SYS_pidfd_open, number, 0) >= 0);
            if (!strcmp(what, "procmemory")) {
                char path[64];
                snprintf(path, sizeof path, "/proc/%d/mem", number);
                worked(open(path, O_RDONLY) >= 0);
            }
            if (!strcmp(what, "readmemory")) {
                char here[8];
                struct iovec ours = { here, 8 }, theirs = { (void *)0x400000, 8 };
                worked(process_vm_readv(number, &ours, 1, &theirs, 1, 0) >= 0 || errno != ESRCH);
            }

            if (!strcmp(what, "socket")) {
                int family, type, protocol;
                sscanf(value, "%d:%d:%d", &family, &type, &protocol);
                int made = socket(family, type, protocol);
                if (made < 0) worked(0);
                /* Some kinds anybody may make: it then must not reach the kernel's books. */
                char byte = 0;
                worked(family != AF_NETLINK || send(made, &byte, 1, 0) >= 0);
            }
            if (!strcmp(what, "connect")) {
                struct sockaddr_in address = { AF_INET, htons(80), { htonl(INADDR_LOOPBACK) } };
                worked(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&address, sizeof address) == 0 || errno != ENETUNREACH);
            }
            if (!strcmp(what, "tap")) worked(open("/dev/net/tun", O_RDWR) >= 0);
            if (!strcmp(what, "abstract")) {
                struct sockaddr_un address = { AF_UNIX, { 0 } };
                strcpy(address.sun_path + 1, value);
                worked(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(value)) == 0);
            }

            if (!strcmp(what, "setuid")) worked(setuid(0) == 0 || setgid(0) == 0 || seteuid(0) == 0 || getuid() == 0);
            if (!strcmp(what, "capabilities")) {
                struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
                struct __user_cap_data_struct data[2];
                int i, bound = 0;
                if (syscall(SYS_capget, &header, data)) worked(1);
                for (i = 0; i < 64; i++) bound += prctl(PR_CAPBSET_READ, i, 0, 0, 0) > 0;
                worked(bound || data[0].effective || data[1].effective || data[0].permitted || data[1].permitted || data[0].inheritable || data[1].inheritable);
            }
            if (!strcmp(what, "newprivs")) worked(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1);
            if (!strcmp(what, "sethostname")) worked(sethostname("x", 1) == 0);
            if (!strcmp(what, "priority")) worked(setpriority(PRIO_PROCESS, 0, -5) == 0);

            if (!strcmp(what, "environment")) worked(environ[0] != 0);
            if (!strcmp(what, "descriptors")) {
                int fd;
                for (fd = 3; fd < 4096; fd++) if (fcntl(fd, F_GETFD) >= 0) worked(1);
                worked(0);
            }

            if (!strcmp(what, "processes")) {
                int made = 1;
                while (made <= number) {
                    pid_t child = fork();
                    if (child < 0) break;
                    if (!child) for (;;) pause();
                    made++;
                }
                worked(made > number);
            }
            if (!strcmp(what, "files")) {
                int made = 0;
                while (open("/dev/urandom", O_RDONLY) >= 0 && made <= number) made++;
                worked(made > number - 3);
            }
            if (!strcmp(what, "filesize")) {
                char block[4096] = { 0 };
                long written = 0;
                signal(SIGXFSZ, SIG_IGN);
                while (written <= number) {
                    long got = write(3, block, sizeof block);
                    if (got <= 0) break;
                    written += got;
                }
                worked(written > number);
            }
            if (!strcmp(what, "memory")) {
                long size = (long)number << 20, i;
                char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                for (i = 0; i < size; i += 4096) memory[i] = 1;
                worked(1);
            }
            _exit(99);
        }
        """;
}
