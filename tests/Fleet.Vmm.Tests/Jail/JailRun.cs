using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Fleet.Tests;
using Fleet.Vmm.Tests.Api;
using Xunit;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>
/// The real <c>fleet-vmm jail</c>, with a program of the test's in place of the VMM. The jailed program is this process's child:
/// it is waited for, and its control groups are removed.
/// </summary>
internal sealed partial class JailRun : IDisposable
{
    private const int ErrorExit = 0x7f;

    private static int s_last;

    private readonly string _program;

    /// <param name="program">C source of what runs inside; null: fleet-vmm.</param>
    public JailRun(string? program = null)
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "a jail is built by root");
        Assert.True(File.Exists(Vmm), $"{Vmm} is missing; build it with: ./fleet build");
        Id = $"test-{Environment.ProcessId}-{Interlocked.Increment(ref s_last)}";
        _program = "";
        if (program is not null)
        {
            _program = Files.File("program");
            Compiler.Build(program, _program);
        }
    }

    public static string Vmm => Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");

    public ScratchDirectory Files { get; } = new();

    public string Id { get; }

    public int Pid { get; private set; }

    /// <summary>Starts it; the jailer's exit code and what it said. With 0 the program runs, and <see cref="Pid"/> is known.</summary>
    public (int Code, string Errors) Start(string[] options, params string[] arguments)
    {
        var pidFile = Files.File("pid");
        string[] common = ["jail", "--id", Id, "--uid", "1879048193", "--gid", "1879048193", "--pid-file", pidFile, "--parent-cgroup", "fleet-test"];
        string[] program = _program.Length > 0 ? ["--exec-file", _program] : [];
        using var process = Process.Start(new ProcessStartInfo(Vmm, [.. common, .. program, .. options, "--", .. arguments]) { WorkingDirectory = Files.Root, RedirectStandardError = true, RedirectStandardOutput = true, RedirectStandardInput = true })!;
        Assert.True(process.WaitForExit(TimeSpan.FromSeconds(20)));
        if (process.ExitCode != 0)
        {
            return (process.ExitCode, process.StandardError.ReadToEnd());
        }

        Pid = int.Parse(File.ReadAllLines(pidFile)[1].Split(' ')[0], CultureInfo.InvariantCulture);
        return (0, "");
    }

    /// <summary>Runs one attempt of the program to its end: its exit code, or 128 and the signal that ended it.</summary>
    public int Try(string attempt, params string[] options)
    {
        Assert.Equal((0, ""), Start(options, attempt));
        return Wait();
    }

    public int Wait()
    {
        Assert.Equal(Pid, waitpid(Pid, out var status, 0));
        Pid = 0;
        return (status & ErrorExit) == 0 ? (status >> 8) & 0xff : 128 + (status & ErrorExit);
    }

    public void Dispose()
    {
        if (Pid > 0)
        {
            _ = Native.kill(Pid, 9);
            _ = Wait();
        }

        Files.Dispose();
        if (!Directory.Exists("/sys/fs/cgroup"))
        {
            return;
        }

        foreach (var hierarchy in (string[])["/sys/fs/cgroup", .. Directory.GetDirectories("/sys/fs/cgroup")])
        {
            foreach (var group in (string[])[Path.Combine(hierarchy, "fleet-test", Id), Path.Combine(hierarchy, "fleet-test")])
            {
                if (Directory.Exists(group))
                {
                    _ = rmdir(group);
                }
            }
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int waitpid(int pid, out int status, int options);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int rmdir(string path);
}
