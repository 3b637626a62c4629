using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Host.Pressure;
using Serilog;

namespace Fleet.Host.Agent;

/// <summary>
/// The balloon of one VMM: asks its guest for memory while the host is short, by <see cref="BalloonPolicy"/>, and gives it back. One that an agent
/// before left blown up is emptied too. Rests when there is nothing to do.
/// </summary>
internal sealed class BalloonActor : UntypedActor
{
    /// <summary>How often a guest tells of its memory while it is asked for some.</summary>
    public static readonly TimeSpan TellsWhileAsked = TimeSpan.FromSeconds(2);

    private static readonly TimeSpan Retry = TimeSpan.FromSeconds(30);

    private readonly IVmm _vmm;
    private readonly MicroVmContext _context;
    private readonly ILogger _log;
    private readonly BalloonPolicy _policy;
    private bool _isShort;
    private bool _busy;
    private bool _told;
    private TimeSpan? _tells;
    private ITimer? _next;

    /// <param name="vmm">Runs.</param>
    /// <param name="memoryMib">That its guest has.</param>
    /// <param name="isShort">The host is short of memory.</param>
    /// <param name="context">The agent's.</param>
    /// <param name="log">Knows the microVM.</param>
    public BalloonActor(IVmm vmm, uint memoryMib, bool isShort, MicroVmContext context, ILogger log)
    {
        _vmm = vmm;
        _context = context;
        _log = log;
        _policy = new BalloonPolicy(memoryMib);
        _isShort = isShort;
    }

    /// <summary>The host is short of memory, or is not any more.</summary>
    public sealed record Reclaim(bool IsShort) : INoSerializationVerificationNeeded;

    /// <summary>To the microVM's actor: what the balloon holds, MiB.</summary>
    public sealed record Holds(uint Mib) : INoSerializationVerificationNeeded;

    private sealed record Looked(BalloonReading? Reading) : INoSerializationVerificationNeeded;

    private sealed record Asked(uint TargetMib) : INoSerializationVerificationNeeded;

    private sealed record Failed(Exception Why) : INoSerializationVerificationNeeded;

    private sealed class Look : INoSerializationVerificationNeeded
    {
        public static readonly Look Instance = new();
    }

    protected override void PreStart() => Begin();

    protected override void PostStop() => _next?.Dispose();

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case Reclaim reclaim:
                _isShort = reclaim.IsShort;
                Begin();
                break;
            case Look:
                Begin();
                break;
            case Looked { Reading: null }:
                // It has no balloon, and never will have.
                Context.Stop(Self);
                break;
            case Looked { Reading: { } reading }:
                Decide(reading);
                break;
            case Asked asked:
                _busy = false;
                if (_isShort || asked.TargetMib > 0)
                    LookIn(BalloonPolicy.Every);
                break;
            case Failed failed:
                _busy = false;
                _tells = null;
                // Said once: an agent that can't reach a VMM has said more elsewhere.
                if (!_told)
                    _log.Warning("The balloon can't be read or set: {Why}. It is tried again", failed.Why.Message);
                _told = true;
                LookIn(Retry);
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private void Begin()
    {
        if (_busy)
            return;
        _busy = true;
        _next?.Dispose();
        _next = null;
        _ = _context.Work.Track(Answered(async () => new Looked(await _vmm.ReadBalloonAsync(_context.Ending).ConfigureAwait(false)))).PipeTo(Self);
    }

    private void Decide(BalloonReading reading)
    {
        _told = false;
        Context.Parent.Tell(new Holds(reading.ActualMib));
        var isShort = _isShort;
        var target = _policy.Next(reading, isShort, _context.Clock.GetElapsedTime(0));
        if (target != reading.TargetMib)
            _log.Information("The guest is asked to do without {Target} of its MiB; it does without {Actual} and has {Available} to spare", target, reading.ActualMib, reading.AvailableMib);
        var tells = isShort || target > 0 ? TellsWhileAsked : KvmVmm.TellsInCalm;
        var settled = target == reading.TargetMib && tells == _tells;
        _tells = tells;
        _ = _context.Work.Track(Answered(async () =>
        {
            if (!settled)
                await _vmm.SetBalloonAsync(target, tells, _context.Ending).ConfigureAwait(false);
            return new Asked(target);
        })).PipeTo(Self);
    }

    private void LookIn(TimeSpan pause)
    {
        var self = Self;
        _next?.Dispose();
        _next = _context.Clock.CreateTimer(_ => self.Tell(Look.Instance), null, pause, Timeout.InfiniteTimeSpan);
    }

    private static async Task<object> Answered(Func<Task<object>> work)
    {
        try
        {
            return await work().ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            return new Failed(failed);
        }
    }
}
