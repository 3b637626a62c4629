using System.Reflection;
using System.Text;
using CsCheck;
using Fleet.Vmm.Jail;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Xunit;

namespace Fleet.Vmm.Tests.Jail;

public sealed class ThreadFilterTests
{
    private const uint Pid = 7;
    private const int LastNumber = 470;

    private static readonly ThreadKinds[] Kinds = [ThreadKinds.Start, ThreadKinds.Loop, ThreadKinds.Vcpu, ThreadKinds.Finalizer];

    /// <summary>Numbers that no thread of a VMM may ever use, whatever the arguments; asm/unistd_64.h.</summary>
    private static readonly (string Name, int Number)[] Forbidden =
    [
        ("socketpair", 53), ("fork", 57), ("vfork", 58), ("execve", 59), ("kill", 62), ("ptrace", 101), ("chdir", 80), ("link", 86),
        ("symlink", 88), ("chmod", 90), ("chown", 92), ("setuid", 105), ("setgid", 106), ("capset", 126), ("mknod", 133), ("personality", 135), ("pivot_root", 155),
        ("setrlimit", 160), ("chroot", 161), ("mount", 165), ("umount2", 166), ("reboot", 169), ("init_module", 175), ("tkill", 200), ("keyctl", 250), ("unshare", 272),
        ("perf_event_open", 298), ("fanotify_init", 300), ("open_by_handle_at", 304), ("setns", 308), ("process_vm_readv", 310), ("process_vm_writev", 311), ("kcmp", 312),
        ("finit_module", 313), ("memfd_create", 319), ("bpf", 321), ("execveat", 322), ("pkey_mprotect", 329), ("pidfd_send_signal", 424), ("open_tree", 428),
        ("move_mount", 429), ("fsopen", 430), ("pidfd_open", 434), ("openat2", 437), ("pidfd_getfd", 438), ("process_madvise", 440), ("mount_setattr", 442),
    ];

    [Fact]
    public void Should_end_the_process_for_what_no_VMM_does()
    {
        foreach (var kind in Kinds)
        {
            var filter = ThreadFilters.Build(kind, Pid);
            foreach (var (name, number) in Forbidden)
            {
                Assert.True(BpfMachine.Run(filter, number, new ulong[6]) == SystemCallFilter.KillProcess, $"{name} on {kind}");
            }
        }
    }

    [Fact]
    public void Should_know_no_other_architecture()
    {
        foreach (var kind in Kinds)
        {
            var filter = ThreadFilters.Build(kind, Pid);
            Assert.Equal(SystemCallFilter.LetThrough, BpfMachine.Run(filter, CallNumbers.Getpid, new ulong[6]));
            Assert.Equal(SystemCallFilter.KillProcess, BpfMachine.Run(filter, CallNumbers.Getpid, new ulong[6], 0x40000003));
            Assert.Equal(SystemCallFilter.KillProcess, BpfMachine.Run(filter, CallNumbers.Getpid | 0x40000000, new ulong[6]));
            Assert.Equal(SystemCallFilter.KillProcess, BpfMachine.Run(filter, -1, new ulong[6]));
        }
    }

    /// <summary>The compiled filter means what the table says: every number, with arguments near those that are named and any others.</summary>
    [Fact]
    public void Should_answer_as_the_table_says()
    {
        foreach (var kind in Kinds)
        {
            var filter = ThreadFilters.Build(kind, Pid);
            var rules = ThreadFilters.Capabilities(Pid).Where(capability => (capability.Kinds & kind) != 0).SelectMany(capability => capability.Rules).ToArray();
            var named = rules.SelectMany(rule => rule.Tests).SelectMany(test => test.Values).Distinct().Select(value => (ulong)value).ToArray();
            var near = Gen.Int[0, named.Length - 1].Select(i => named[i]);
            var argument = Gen.OneOf(near, Gen.ULong, Gen.ULong[0, 64], Gen.Select(near, Gen.ULong[0, 8]).Select(pair => pair.Item1 | (pair.Item2 << 32)));
            Gen.Select(Gen.Int[0, LastNumber], argument.Array[6]).Sample(
                (number, arguments) => BpfMachine.Run(filter, number, arguments) == Expected(rules, number, arguments),
                iter: 20_000);
        }
    }

    [Theory]
    [InlineData(1ul)] // stream
    [InlineData(0x80801ul)] // stream, non-blocking, closed on exec
    public void Should_let_unix_sockets_through(ulong type) =>
        Assert.Equal(SystemCallFilter.LetThrough, BpfMachine.Run(ThreadFilters.Build(ThreadKinds.Loop, Pid), CallNumbers.Socket, [1, type, 0, 0, 0, 0]));

    [Theory]
    [InlineData(2ul, 1ul)] // IPv4
    [InlineData(10ul, 1ul)] // IPv6
    [InlineData(16ul, 3ul)] // netlink
    [InlineData(17ul, 3ul)] // packets
    [InlineData(40ul, 1ul)] // vsock
    [InlineData(1ul, 3ul)] // Unix, raw
    [InlineData(0x1_0000_0002ul, 1ul)]
    public void Should_let_no_other_sockets_through(ulong family, ulong type)
    {
        foreach (var kind in Kinds)
        {
            Assert.Equal(SystemCallFilter.KillProcess, BpfMachine.Run(ThreadFilters.Build(kind, Pid), CallNumbers.Socket, [family, type, 0, 0, 0, 0]));
        }
    }

    [Fact]
    public void Should_look_at_arguments()
    {
        foreach (var kind in Kinds)
        {
            var filter = ThreadFilters.Build(kind, Pid);
            uint Answer(int number, params ulong[] arguments) => BpfMachine.Run(filter, number, [.. arguments, .. new ulong[6 - arguments.Length]]);
            Assert.Equal(SystemCallFilter.LetThrough, Answer(CallNumbers.Mmap, 0, 4096, 3));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Mmap, 0, 4096, 7));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Mprotect, 0, 4096, 5));
            Assert.Equal(SystemCallFilter.LetThrough, Answer(CallNumbers.Tgkill, Pid, 9, ThreadKick.Signal));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Tgkill, Pid + 1, 9, ThreadKick.Signal));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Tgkill, Pid, 9, 9));
            Assert.Equal(SystemCallFilter.LetThrough, Answer(CallNumbers.Prlimit64, 0, 9, 0, 0x7fff_0000_0000));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Prlimit64, 0, 9, 0x7f00_0000_0000));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Prlimit64, 1, 9, 0));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.RtSigaction, 31));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Ioctl, 3, 0x5412)); // TIOCSTI
            Assert.Equal(kind == ThreadKinds.Start ? SystemCallFilter.LetThrough : SystemCallFilter.KillProcess, Answer(CallNumbers.Clone, ThreadFilters.ThreadFlags));
            Assert.Equal(SystemCallFilter.KillProcess, Answer(CallNumbers.Clone, 17));
            Assert.Equal(kind == ThreadKinds.Start ? SystemCallFilter.LetThrough : SystemCallFilter.KillProcess, Answer(CallNumbers.IoUringSetup, 128));
            Assert.Equal(kind == ThreadKinds.Start ? SystemCallFilter.LetThrough : SystemCallFilter.KillProcess, Answer(CallNumbers.Ioctl, 3, KvmCalls.CreateVm));
            Assert.Equal(kind is ThreadKinds.Start or ThreadKinds.Vcpu ? SystemCallFilter.LetThrough : SystemCallFilter.KillProcess, Answer(CallNumbers.Ioctl, 3, KvmCalls.Run));
        }
    }

    [Fact]
    public void Should_give_the_first_filter_all_that_the_later_ones_have()
    {
        // Filters add up: what the one over all threads refuses, no thread gets back. But for answers, which say no in another way.
        Assert.All(
            ThreadFilters.Capabilities(Pid).Where(capability => (capability.Kinds & ThreadKinds.Start) == 0),
            capability => Assert.All(capability.Rules, rule => Assert.NotEqual(0, rule.Error)));
    }

    [Fact]
    public void Should_refuse_programs_that_the_kernel_would_not_take()
    {
        var empty = new BpfProgram();
        Assert.Throws<InvalidOperationException>(empty.Assemble);

        var nowhere = new BpfProgram();
        nowhere.IfEqual(1, new BpfProgram.Label(), null);
        nowhere.Return(0);
        Assert.Throws<InvalidOperationException>(nowhere.Assemble);

        var backwards = new BpfProgram();
        var label = new BpfProgram.Label();
        backwards.Mark(label);
        backwards.Return(0);
        backwards.Jump(label);
        Assert.Throws<InvalidOperationException>(backwards.Assemble);

        var far = new BpfProgram();
        var away = new BpfProgram.Label();
        far.IfEqual(1, away, null);
        for (var i = 0; i < 256; i++)
        {
            far.Return(0);
        }

        far.Mark(away);
        far.Return(1);
        Assert.Throws<InvalidOperationException>(far.Assemble);
    }

    [SkippableFact]
    public void Should_agree_with_the_headers()
    {
        var text = new StringBuilder("#define _GNU_SOURCE\n#include <stddef.h>\n#include <sched.h>\n#include <linux/audit.h>\n#include <linux/io_uring.h>\n#include <linux/filter.h>\n#include <linux/kvm.h>\n#include <linux/seccomp.h>\n"
            + "#include <linux/userfaultfd.h>\n#include <linux/sockios.h>\n#include <linux/if_tun.h>\n#include <sys/ioctl.h>\n#include <sys/syscall.h>\n");
        void Fact(string c, long ours) => text.Append("_Static_assert((unsigned int)(").Append(c).Append(") == ").Append((uint)ours).Append("u, \"").Append(c).Append("\");\n");
        foreach (var field in typeof(CallNumbers).GetFields(BindingFlags.Public | BindingFlags.Static))
        {
            Fact("SYS_" + ThreadFilterNames.Native(field.Name), (int)field.GetRawConstantValue()!);
        }

        foreach (var (name, number) in Forbidden)
        {
            Fact("SYS_" + name, number);
        }

        foreach (var (c, ours) in ThreadFilterNames.Requests)
        {
            Fact(c, ours);
        }

        Fact("IORING_SETUP_R_DISABLED", IoRing.StartDisabled);
        Fact("IORING_REGISTER_RESTRICTIONS", IoRing.RegisterRestrictions);
        Fact("IORING_REGISTER_ENABLE_RINGS", IoRing.EnableRings);
        Fact("IORING_RESTRICTION_SQE_OP", IoRing.AllowOperation);
        Fact("sizeof(struct io_uring_restriction)", 16);
        Fact("offsetof(struct io_uring_restriction, sqe_op)", 2);
        Fact("SYS_io_uring_register", IoRing.RegisterCall);
        Fact("SECCOMP_RET_KILL_PROCESS", SystemCallFilter.KillProcess);
        Fact("SECCOMP_RET_ERRNO", SystemCallFilter.FailWith);
        Fact("SECCOMP_RET_ALLOW", SystemCallFilter.LetThrough);
        Fact("AUDIT_ARCH_X86_64", SystemCallFilter.Architecture);
        Fact("offsetof(struct seccomp_data, nr)", SystemCallFilter.NumberOffset);
        Fact("offsetof(struct seccomp_data, arch)", SystemCallFilter.ArchitectureOffset);
        Fact("offsetof(struct seccomp_data, args)", SystemCallFilter.ArgumentsOffset);
        Fact("sizeof(struct sock_filter)", 8);
        Fact("offsetof(struct sock_filter, k)", 4);
        Fact("BPF_LD | BPF_W | BPF_ABS", BpfProgram.LoadWordCode);
        Fact("BPF_ALU | BPF_AND | BPF_K", BpfProgram.AndCode);
        Fact("BPF_JMP | BPF_JA", BpfProgram.JumpCode);
        Fact("BPF_JMP | BPF_JEQ | BPF_K", BpfProgram.EqualCode);
        Fact("BPF_JMP | BPF_JGE | BPF_K", BpfProgram.AtLeastCode);
        Fact("BPF_RET | BPF_K", BpfProgram.ReturnCode);
        Fact("BPF_MAXINSNS", BpfProgram.Longest);
        Fact("CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID", ThreadFilters.ThreadFlags);
        Assert.Equal("", Compiler.Check(text.ToString()));
    }

    private static uint Expected(CallRule[] rules, int number, ulong[] arguments)
    {
        foreach (var rule in rules)
        {
            if (rule.Call == number && rule.Tests.All(test => test.Values.Contains((uint)(arguments[test.Index] >> (test.IsHigh ? 32 : 0)) & test.Mask)))
            {
                return rule.Error == 0 ? SystemCallFilter.LetThrough : SystemCallFilter.FailWith | (uint)rule.Error;
            }
        }

        return SystemCallFilter.KillProcess;
    }
}
