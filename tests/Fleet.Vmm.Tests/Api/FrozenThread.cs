using System.Runtime.InteropServices;

namespace Fleet.Vmm.Tests.Api;

/// <summary>One thread of a child process, stopped by ptrace until it is disposed; the others run on.</summary>
/// <remarks>Only the thread that froze it may let it go: ptrace knows its tracer by thread.</remarks>
internal sealed partial class FrozenThread : IDisposable
{
    private const nint Seize = 0x4206;
    private const nint Interrupt = 0x4207;
    private const nint Detach = 17;
    private const int WaitAll = 0x40000000;

    private readonly int _thread;

    public FrozenThread(int thread)
    {
        _thread = thread;
        Assert.True(ptrace(Seize, thread, 0, 0) == 0, $"ptrace is not allowed here: error {Marshal.GetLastPInvokeError()}");
        Assert.Equal(0, ptrace(Interrupt, thread, 0, 0));
        Assert.Equal(thread, waitpid(thread, out _, WaitAll));
    }

    public void Dispose() => Assert.Equal(0, ptrace(Detach, _thread, 0, 0));

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint ptrace(nint request, int thread, nint address, nint data);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int waitpid(int pid, out int status, int options);
}
