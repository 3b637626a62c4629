using System.Collections.Concurrent;
using System.Diagnostics;
using System.IO.Pipes;
using System.Text;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>
/// One machine on the real /dev/kvm, with its own loop on the test's thread and pipes as console. Everything is closed
/// with it; a machine that does not end in time fails the test.
/// </summary>
internal sealed class MachineRun : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(20);

    private readonly string _directory = Directory.CreateTempSubdirectory("fleet-vmm-test-").FullName;
    private readonly AnonymousPipeServerStream _input = new(PipeDirection.Out);
    private readonly AnonymousPipeServerStream _output = new(PipeDirection.In);
    private readonly List<LoopTimer> _timers = [];
    private MachineEnd? _end;
    private int _ends;

    public MachineRun(byte[] kernel, int vcpus = 1, int memoryMib = 16, bool statusPort = false, bool entropy = false,
        Func<MachineSettings, MachineSettings>? change = null, RestoreSource? source = null, Func<EventLoop, RunLog>? runLog = null)
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        StatusPath = statusPort ? Path.Combine(_directory, "status.log") : null;
        var kernelPath = Path.Combine(_directory, "kernel");
        File.WriteAllBytes(kernelPath, kernel);
        var factory = new MachineFactory(
            (int)_input.ClientSafePipeHandle.DangerousGetHandle(),
            (int)_output.ClientSafePipeHandle.DangerousGetHandle(),
            onStuck: Stuck.Enqueue,
            onWarning: Warnings.Add,
            watchPeriod: TimeSpan.FromMilliseconds(100));
        var settings = new MachineSettings { Vcpus = vcpus, MemoryMib = memoryMib, KernelPath = kernelPath, BootArgs = "", StatusPortPath = StatusPath, Entropy = entropy ? new Fleet.Vmm.RateLimiting.LimiterSettings(null, null) : null };
        settings = change is null ? settings : change(settings);
        settings = settings with { RunLog = runLog?.Invoke(Loop) };
        try
        {
            Machine = source is null ? factory.Build(settings, Loop) : factory.Restore(settings, source, Loop);
        }
        catch
        {
            // Nobody gets an object to dispose of.
            CloseFiles();
            throw;
        }

        Machine.Ended += end =>
        {
            _ends++;
            _end = end;
            Loop.Exit(0);
        };
    }

    public EventLoop Loop { get; } = new();

    public IMachine Machine { get; }

    public string? StatusPath { get; }

    /// <summary>Why the process would have been ended at once; from any thread.</summary>
    public ConcurrentQueue<string> Stuck { get; } = [];

    /// <summary>What the machine goes on without.</summary>
    public List<string> Warnings { get; } = [];

    /// <summary>Does something on the loop after a while.</summary>
    public void After(TimeSpan delay, Action action)
    {
        var timer = new LoopTimer(Loop, action);
        timer.Start(delay, TimeSpan.Zero);
        _timers.Add(timer);
    }

    /// <summary>Does something on the loop again and again until it says true.</summary>
    public void Poll(Func<bool> action)
    {
        LoopTimer? timer = null;
        timer = new LoopTimer(Loop, () =>
        {
            if (action())
            {
                timer!.Start(TimeSpan.FromDays(1), TimeSpan.Zero);
            }
        });
        timer.Start(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1));
        _timers.Add(timer);
    }

    public void Type(string text) => _input.Write(Encoding.ASCII.GetBytes(text));

    /// <summary>Closes the writer of the console's input.</summary>
    public void HangUp() => _input.Dispose();

    /// <summary>Runs the loop until the machine has ended, exactly once and in time.</summary>
    public MachineEnd RunToEnd(bool started = false)
    {
        var late = false;
        After(Limit, () =>
        {
            late = true;
            Loop.Exit(1);
        });
        if (!started)
        {
            Machine.Start();
        }

        Loop.Run();
        Assert.False(late, $"the machine did not end within {Limit.TotalSeconds} s");
        Assert.Empty(Stuck);
        Assert.Equal(1, _ends);
        return _end!;
    }

    /// <summary>What the guest has sent so far; only after the end.</summary>
    public string Console()
    {
        Machine.Dispose();
        _output.DisposeLocalCopyOfClientHandle();
        using var reader = new StreamReader(_output, Encoding.ASCII, false, 4096, leaveOpen: true);
        return reader.ReadToEnd();
    }

    /// <summary>The same, of a guest that does not send text.</summary>
    public byte[] ConsoleBytes()
    {
        Machine.Dispose();
        _output.DisposeLocalCopyOfClientHandle();
        using var bytes = new MemoryStream();
        _output.CopyTo(bytes);
        return bytes.ToArray();
    }

    public static TimeSpan Time(Action action)
    {
        var begin = Stopwatch.GetTimestamp();
        action();
        return Stopwatch.GetElapsedTime(begin);
    }

    public void Dispose()
    {
        Machine.Dispose();
        foreach (var timer in _timers)
        {
            timer.Dispose();
        }

        CloseFiles();
    }

    private void CloseFiles()
    {
        Loop.Dispose();
        _input.DisposeLocalCopyOfClientHandle();
        _input.Dispose();
        _output.DisposeLocalCopyOfClientHandle();
        _output.Dispose();
        Directory.Delete(_directory, recursive: true);
    }
}
