using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Text;
using Fleet.Vmm.Linux;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>Our numbers and layouts against the system's own headers, checked by the C compiler.</summary>
public sealed class LinuxConstantsTests
{
    [SkippableFact]
    public void Should_agree_with_the_headers()
    {
        Skip.IfNot(File.Exists("/usr/bin/gcc"), "no C compiler");
        (string C, long Ours)[] facts =
        [
            ("EPOLL_CLOEXEC", EventLoop.EpollCloseOnExec), ("EPOLL_CTL_ADD", EventLoop.ControlAdd), ("EPOLL_CTL_DEL", EventLoop.ControlDelete), ("EPOLL_CTL_MOD", EventLoop.ControlModify),
            ("EPOLLIN", (long)LoopEvents.Readable), ("EPOLLOUT", (long)LoopEvents.Writable), ("EPOLLERR", (long)LoopEvents.Failed), ("EPOLLHUP", (long)LoopEvents.HungUp),
            ("sizeof(struct epoll_event)", Unsafe.SizeOf<EventLoop.EpollEvent>()), ("offsetof(struct epoll_event, data)", 4),
            ("CLOCK_MONOTONIC", KernelClock.Monotonic), ("CLOCK_PROCESS_CPUTIME_ID", KernelClock.ProcessCpu), ("CLOCK_BOOTTIME", KernelClock.Boot), ("TFD_NONBLOCK", LoopTimer.NonBlocking), ("TFD_CLOEXEC", LoopTimer.CloseOnExec),
            ("sizeof(struct itimerspec)", 32), ("offsetof(struct itimerspec, it_value)", 16),
            ("O_RDONLY", Descriptors.ReadOnly), ("O_WRONLY", Descriptors.WriteOnly), ("O_RDWR", Descriptors.ReadWrite), ("O_CREAT", Descriptors.Create), ("O_TRUNC", Descriptors.Truncate),
            ("O_NOCTTY", Descriptors.NoTerminal), ("O_APPEND", Descriptors.Append), ("O_NONBLOCK", Descriptors.NonBlocking), ("O_CLOEXEC", Descriptors.CloseOnExec), ("O_NOFOLLOW", Descriptors.NoFollow),
            ("S_IFMT", Descriptors.FileTypeMask), ("S_IFREG", Descriptors.RegularFile), ("offsetof(struct stat, st_mode)", Descriptors.ModeOffset),
            ("POLLOUT", Descriptors.PollWritable), ("sizeof(struct pollfd)", Unsafe.SizeOf<Descriptors.PollRequest>()),
            ("AF_UNIX", Sockets.Unix), ("SOCK_STREAM", Sockets.Stream), ("SOCK_NONBLOCK", Sockets.NonBlocking), ("SOCK_CLOEXEC", Sockets.CloseOnExec), ("MSG_NOSIGNAL", Sockets.NoSignal),
            ("sizeof(((struct sockaddr_un*)0)->sun_path) - 1", Sockets.LongestPath), ("offsetof(struct sockaddr_un, sun_path)", 2),
            ("SIGHUP", Signals.HangUp), ("SIGINT", Signals.Interrupt), ("SIGTERM", Signals.Terminate), ("SIGXCPU", Signals.CpuTimeExceeded), ("SIGPIPE", Signals.BrokenPipe), ("SIGXFSZ", Signals.FileSizeExceeded),
            ("SIG_BLOCK", Signals.Block), ("SFD_NONBLOCK", Signals.NonBlocking), ("SFD_CLOEXEC", Signals.CloseOnExec), ("sizeof(struct signalfd_siginfo)", Signals.InfoSize), ("sizeof(sigset_t)", 128),
            ("EPERM", SystemCallException.NotPermitted), ("ENOENT", SystemCallException.NoEntry), ("EINTR", SystemCallException.Interrupted), ("EAGAIN", SystemCallException.TryAgain),
            ("ENFILE", SystemCallException.TableFull), ("EMFILE", SystemCallException.TooManyOpenFiles), ("EADDRINUSE", SystemCallException.AddressInUse),
            ("MAP_FIXED", VirtualMemory.Fixed), ("offsetof(struct sysinfo, totalswap)", VirtualMemory.TotalSwapWord * 8), ("SEEK_DATA", FileContent.NextData), ("SEEK_HOLE", FileContent.NextHole), ("ENXIO", FileContent.NothingThere),
            ("SYS_userfaultfd", UserFault.UserFaultCall), ("UFFD_API", (long)UserFault.ApiVersion), ("UFFD_FEATURE_EVENT_REMOVE", (long)UserFault.EventRemove), ("UFFDIO_REGISTER_MODE_MISSING", (long)UserFault.Missing),
            ("USERFAULTFD_IOC_NEW", UserFault.NewFromDevice), ("UFFDIO_API", UserFault.Api), ("UFFDIO_REGISTER", UserFault.RegisterRange),
            ("sizeof(struct uffdio_api)", Unsafe.SizeOf<UserFault.UserFaultApi>()), ("sizeof(struct uffdio_register)", Unsafe.SizeOf<UserFault.UserFaultRange>()),
            ("SOL_SOCKET", DescriptorChannel.SocketLevel), ("SO_SNDTIMEO", DescriptorChannel.SendTimeout), ("SCM_RIGHTS", DescriptorChannel.PassDescriptors), ("ENAMETOOLONG", DescriptorChannel.NameTooLong),
            ("sizeof(struct msghdr)", Unsafe.SizeOf<DescriptorChannel.MessageHeader>()), ("CMSG_LEN(sizeof(int))", 20), ("CMSG_SPACE(sizeof(int))", 24),
        ];
        var program = new StringBuilder("#define _GNU_SOURCE\n");
        foreach (var header in new[] { "stddef.h", "errno.h", "fcntl.h", "poll.h", "signal.h", "time.h", "sys/epoll.h", "sys/signalfd.h", "sys/socket.h", "sys/stat.h", "sys/timerfd.h", "sys/un.h", "sys/mman.h", "sys/sysinfo.h", "sys/syscall.h", "sys/ioctl.h", "linux/userfaultfd.h", "unistd.h" })
        {
            program.Append("#include <").Append(header).Append(">\n");
        }

        foreach (var (c, ours) in facts)
        {
            program.Append("_Static_assert((long)(").Append(c).Append(") == ").Append(ours).Append(", \"").Append(c.Replace('"', ' ')).Append("\");\n");
        }

        using var files = new ScratchDirectory();
        using var compiler = Process.Start(new ProcessStartInfo("/usr/bin/gcc", ["-fsyntax-only", files.File("facts.c", program.ToString())]) { RedirectStandardError = true })!;
        var errors = compiler.StandardError.ReadToEnd();
        compiler.WaitForExit();
        Assert.Equal((0, ""), (compiler.ExitCode, errors));
    }
}
