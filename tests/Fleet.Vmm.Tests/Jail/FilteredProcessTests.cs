using System.Diagnostics;
using System.Runtime.InteropServices;
using Fleet.Vmm.Jail;
using Fleet.Vmm.Tests.Api;
using Xunit;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>The filters in the kernel: a C program puts one on and tries what an attacker would.</summary>
public sealed class FilteredProcessTests
{
    private const int Killed = 128 + 31; // SIGSYS

    private const string Attacker = """
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <sched.h>
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <sys/mount.h>
        #include <sys/prctl.h>
        #include <sys/ptrace.h>
        #include <sys/socket.h>
        #include <sys/syscall.h>
        #include <sys/uio.h>
        #include <sys/wait.h>
        #include <linux/filter.h>
        #include <linux/seccomp.h>
        #include <unistd.h>

        static struct sock_filter code[4096];

        static void attempt(const char *what)
        {
            struct iovec here = { code, 8 };
            char *none[] = { "x", NULL };
            if (!strcmp(what, "nothing")) syscall(SYS_getpid);
            else if (!strcmp(what, "exec")) execve("/bin/true", none, NULL);
            else if (!strcmp(what, "fork")) syscall(SYS_fork);
            else if (!strcmp(what, "clone")) syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
            else if (!strcmp(what, "clone3")) { if (syscall(SYS_clone3, 0, 0) == -1 && errno == ENOSYS) exit(3); }
            else if (!strcmp(what, "ptrace")) ptrace(PTRACE_ATTACH, getppid(), 0, 0);
            else if (!strcmp(what, "process_vm_readv")) process_vm_readv(getppid(), &here, 1, &here, 1, 0);
            else if (!strcmp(what, "kill")) kill(getppid(), 0);
            else if (!strcmp(what, "mount")) mount("none", "/", "tmpfs", 0, 0);
            else if (!strcmp(what, "unshare")) unshare(CLONE_NEWUSER);
            else if (!strcmp(what, "raw socket")) socket(AF_INET, SOCK_RAW, 1);
            else if (!strcmp(what, "packet socket")) socket(AF_PACKET, SOCK_RAW, 0);
            else if (!strcmp(what, "tcp socket")) socket(AF_INET, SOCK_STREAM, 0);
            else if (!strcmp(what, "executable memory")) mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            else if (!strcmp(what, "executable stack")) mprotect((void *)((unsigned long)&here & ~4095ul), 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
            else if (!strcmp(what, "limits")) { unsigned long wide[2] = { 1, 1 }; syscall(SYS_prlimit64, 0, 7, wide, 0); }
            else if (!strcmp(what, "int80")) { int answer; __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20)); }
            else if (!strcmp(what, "terminal input")) { char c = 'x'; syscall(SYS_ioctl, 0, 0x5412, &c); }
            else if (!strcmp(what, "bpf")) syscall(SYS_bpf, 0, 0, 0);
            else if (!strcmp(what, "userns")) syscall(SYS_setns, 0, 0);
            else exit(99);
        }

        int main(int count, char **arguments)
        {
            int file = open(arguments[1], O_RDONLY);
            long size = read(file, code, sizeof code);
            struct sock_fprog program = { size / 8, code };
            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) return 98;
            attempt(arguments[2]);
            syscall(SYS_exit_group, 0);
        }
        """;

    [SkippableFact]
    public void Should_be_ended_by_the_kernel_for_each_thing_that_an_attacker_tries()
    {
        using var files = new ScratchDirectory();
        var program = files.File("attacker");
        Compiler.Build(Attacker, program);
        foreach (var kind in (ThreadKinds[])[ThreadKinds.Start, ThreadKinds.Loop, ThreadKinds.Vcpu, ThreadKinds.Finalizer])
        {
            // Without the pid's test, which the program's getpid would have to match: 0 is nobody's.
            var filter = files.File($"filter-{kind}");
            File.WriteAllBytes(filter, MemoryMarshal.AsBytes(ThreadFilters.Build(kind, 0).AsSpan()).ToArray());
            Assert.Equal(0, Try(program, filter, "nothing"));
            Assert.Equal(kind == ThreadKinds.Start ? 3 : Killed, Try(program, filter, "clone3"));
            foreach (var what in (string[])["exec", "fork", "clone", "ptrace", "process_vm_readv", "kill", "mount", "unshare", "raw socket", "packet socket", "tcp socket", "executable memory",
                "executable stack", "limits", "int80", "terminal input", "bpf", "userns"])
            {
                Assert.True(Try(program, filter, what) == Killed, $"{what} on {kind}");
            }
        }
    }

    private static int Try(string program, string filter, string what)
    {
        using var process = Process.Start(program, [filter, what]);
        Assert.True(process.WaitForExit(TimeSpan.FromSeconds(10)));
        return process.ExitCode;
    }
}
