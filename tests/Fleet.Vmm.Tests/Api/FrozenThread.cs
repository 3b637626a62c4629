using System.Globalization;
using System.Runtime.InteropServices;

namespace Fleet.Vmm.Tests.Api;

/// <summary>
/// A thread of a child process that gets no CPU until this is disposed, as on a host that swaps or throttles: stopped by
/// ptrace, which ends by itself should the test's process die. To be made and disposed on the same thread (ptrace(2)).
/// </summary>
internal sealed partial class FrozenThread : IDisposable
{
    private const int Seize = 0x4206;
    private const int Interrupt = 0x4207;
    private const int Detach = 17;
    private const int AnyChild = 0x40000000;

    private readonly int _process;
    private readonly int _thread;

    public FrozenThread(int process, int thread)
    {
        _process = process;
        _thread = thread;
        Assert.True(ptrace(Seize, thread, 0, 0) == 0, $"ptrace: error {Marshal.GetLastPInvokeError()}");
        Assert.Equal(0, ptrace(Interrupt, thread, 0, 0));
        Assert.Equal(thread, waitpid(thread, out _, AnyChild));
    }

    /// <summary>Whether it was caught in a system call; otherwise it is in our own code, and holds whatever it holds there.</summary>
    public bool IsIn(int systemCall) =>
        File.ReadAllText($"/proc/{_process}/task/{_thread}/syscall").StartsWith(string.Create(CultureInfo.InvariantCulture, $"{systemCall} "), StringComparison.Ordinal);

    /// <summary>Whether a signal waits for the thread.</summary>
    public bool HasPending(int signal)
    {
        var line = File.ReadLines($"/proc/{_process}/task/{_thread}/status").Single(l => l.StartsWith("SigPnd:", StringComparison.Ordinal));
        return (ulong.Parse(line.AsSpan(7).Trim(), NumberStyles.HexNumber, CultureInfo.InvariantCulture) >> (signal - 1) & 1) != 0;
    }

    /// <summary>Lets it run; a thread that is gone needs no more.</summary>
    public void Dispose() => _ = ptrace(Detach, _thread, 0, 0);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long ptrace(long request, int thread, nint address, nint data);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int waitpid(int thread, out int status, int options);
}
