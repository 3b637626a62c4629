using System.Globalization;
using Akka.Actor;
using Fleet.Host.Pressure;

namespace Fleet.Host.Agent;

/// <summary>What a vCPU's thread has used so far.</summary>
/// <param name="Index">The vCPU.</param>
/// <param name="Run">Time on a CPU.</param>
/// <param name="Wait">Time runnable and waiting for a CPU: the host's contention as this vCPU feels it.</param>
/// <param name="Allowance">CPUs that its credits allow it to use now, 0 to 1.</param>
/// <param name="Credits">CPU time that it has saved, below 0 a debt; null: it has no bank.</param>
/// <param name="Lent">CPU time that it used since the last time although it was held back: of what the microVM's other vCPUs may use.</param>
internal sealed record VcpuUsage(int Index, TimeSpan Run, TimeSpan Wait, double Allowance = 1, TimeSpan? Credits = null, TimeSpan Lent = default) : INoSerializationVerificationNeeded;

/// <summary>One vCPU: knows its thread, reads, when asked, what it used from the kernel's scheduler statistics, and keeps its CPU credits.</summary>
internal sealed class VcpuActor : UntypedActor
{
    private readonly int _index;
    private readonly string _schedstat;
    private readonly TimeProvider _clock;
    private readonly CpuCredits? _credits;
    private (TimeSpan Run, TimeSpan At)? _before;

    /// <param name="index">The vCPU.</param>
    /// <param name="pid">Its VMM.</param>
    /// <param name="thread">Its thread, as the host counts them.</param>
    /// <param name="terms">Of its credits; null: it has none and needs none.</param>
    /// <param name="clock">The agent's.</param>
    public VcpuActor(int index, int pid, int thread, CreditTerms? terms, TimeProvider clock)
    {
        _index = index;
        _clock = clock;
        _credits = terms is null ? null : new CpuCredits(terms);
        _schedstat = string.Create(CultureInfo.InvariantCulture, $"/proc/{pid}/task/{thread}/schedstat");
    }

    /// <summary>Asks for a <see cref="VcpuUsage"/>; no answer when the thread has ended.</summary>
    public sealed class GetUsage : INoSerializationVerificationNeeded
    {
        public static readonly GetUsage Instance = new();
    }

    /// <summary>Another vCPU used that of its share: its bank pays.</summary>
    public sealed record Pay(TimeSpan Lent) : INoSerializationVerificationNeeded;

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
        switch (message)
        {
            case GetUsage:
                Answer();
                break;
            case Pay pay:
                _credits?.Pay(pay.Lent);
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private TimeSpan Spend(TimeSpan run)
    {
        var now = _clock.GetElapsedTime(0);
        var lent = _before is { } before && run >= before.Run ? _credits?.Take(run - before.Run, now - before.At) : null;
        _before = (run, now);
        return lent ?? TimeSpan.Zero;
    }

    private void Answer()
    {
        try
        {
            if (Parse(File.ReadAllText(_schedstat)) is { } read)
            {
                var lent = Spend(read.Run);
                Sender.Tell(new VcpuUsage(_index, read.Run, read.Wait, _credits?.Allowance ?? 1, _credits?.Balance, lent));
            }
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            // The thread has ended, and with it the microVM: its actor will hear of that and stop this one. ESRCH comes as IOException.
            Context.Stop(Self);
        }
    }
}
