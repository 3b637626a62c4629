using System.Globalization;
using Akka.Actor;

namespace Fleet.Host.Agent;

/// <summary>What a vCPU's thread has used so far.</summary>
/// <param name="Index">The vCPU.</param>
/// <param name="Run">Time on a CPU.</param>
/// <param name="Wait">Time runnable and waiting for a CPU: the host's contention as this vCPU feels it.</param>
internal sealed record VcpuUsage(int Index, TimeSpan Run, TimeSpan Wait) : INoSerializationVerificationNeeded;

/// <summary>One vCPU: knows its thread and reads, when asked, what it used from the kernel's scheduler statistics.</summary>
internal sealed class VcpuActor : UntypedActor
{
    private readonly int _index;
    private readonly string _schedstat;

    public VcpuActor(int index, int pid, int thread)
    {
        _index = index;
        _schedstat = string.Create(CultureInfo.InvariantCulture, $"/proc/{pid}/task/{thread}/schedstat");
    }

    /// <summary>Asks for a <see cref="VcpuUsage"/>; no answer when the thread has ended.</summary>
    public sealed class GetUsage : INoSerializationVerificationNeeded
    {
        public static readonly GetUsage Instance = new();
    }

    /// <summary>Parses "run_ns wait_ns slices" (kernel: Documentation/scheduler/sched-stats.rst); null when it is anything else.</summary>
    public static (TimeSpan Run, TimeSpan Wait)? Parse(string schedstat)
    {
        var words = schedstat.Split((char[])[' ', '\n'], StringSplitOptions.RemoveEmptyEntries);
        return words.Length >= 2
            && ulong.TryParse(words[0], NumberStyles.None, CultureInfo.InvariantCulture, out var run)
            && ulong.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out var wait)
            && run / 100 <= long.MaxValue && wait / 100 <= long.MaxValue
            ? (TimeSpan.FromTicks((long)(run / 100)), TimeSpan.FromTicks((long)(wait / 100)))
            : null;
    }

    protected override void OnReceive(object message)
    {
        if (message is GetUsage)
            Answer();
        else
            Unhandled(message);
    }

    private void Answer()
    {
        try
        {
            if (Parse(File.ReadAllText(_schedstat)) is { } read)
                Sender.Tell(new VcpuUsage(_index, read.Run, read.Wait));
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            // The thread has ended, and with it the microVM: its actor will hear of that and stop this one. ESRCH comes as IOException.
            Context.Stop(Self);
        }
    }
}
