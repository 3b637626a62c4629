using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Shared.Contracts;
using Serilog;

namespace Fleet.Host.Agent;

/// <summary>
/// One rate limiter of one VMM: owns what it is to let pass, reads what it throttled, and sets the VMM right wherever that
/// does something else. The bucket itself is the VMM's; no request of a guest ever waits for this.
/// </summary>
internal sealed class RateLimiterActor : UntypedActor
{
    /// <summary>Between two looks at a limiter that does what it is to do.</summary>
    public static readonly TimeSpan ReadEvery = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan FirstRetry = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LongestRetry = TimeSpan.FromSeconds(30);

    private readonly string _name;
    private readonly IVmm _vmm;
    private readonly MicroVmContext _context;
    private readonly ILogger _log;
    private RateLimit? _wanted;
    private ulong _revision;
    private bool _busy;
    private bool _again;
    private int _failures;
    private ITimer? _next;

    /// <param name="name">Of <see cref="Fleet.Shared.Vms.RateLimitRules.Names"/>.</param>
    /// <param name="tune">What is wanted at first.</param>
    /// <param name="vmm">Runs.</param>
    /// <param name="context">The agent's.</param>
    /// <param name="log">Knows the microVM.</param>
    public RateLimiterActor(string name, Tune tune, IVmm vmm, MicroVmContext context, ILogger log)
    {
        _name = name;
        (_wanted, _revision) = (tune.Limit, tune.Revision);
        _vmm = vmm;
        _context = context;
        _log = log;
    }

    /// <summary>What is wanted from now on; null: no limit.</summary>
    public sealed record Tune(RateLimit? Limit, ulong Revision) : INoSerializationVerificationNeeded;

    /// <summary>To the microVM's actor: what the limiter does. <paramref name="Reading"/> null: it can't be read at present.</summary>
    /// <param name="Name">The limiter.</param>
    /// <param name="Revision">Of the limits that it is known to follow; null: it does not do what is wanted.</param>
    /// <param name="Reading">The latest figures.</param>
    public sealed record Told(string Name, ulong? Revision, LimiterReading? Reading) : INoSerializationVerificationNeeded;

    private sealed record Looked(LimiterReading? Reading, ulong Revision) : INoSerializationVerificationNeeded;

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
            case Tune tune:
                (_wanted, _revision) = (tune.Limit, tune.Revision);
                Begin();
                break;
            case Look:
                Begin();
                break;
            case Looked looked:
                End(looked);
                break;
            case Failed failed:
                _busy = false;
                // Said once: an agent that can't reach a VMM has said more elsewhere.
                if (_failures++ == 0)
                    _log.Warning("The rate limiter {Limiter} can't be read or set: {Why}. It is tried again", _name, failed.Why.Message);
                Context.Parent.Tell(new Told(_name, null, null));
                var pause = FirstRetry * Math.Pow(2, Math.Min(_failures - 1, 10));
                LookIn(_again ? TimeSpan.Zero : pause < LongestRetry ? pause : LongestRetry);
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private void Begin()
    {
        _again = _busy;
        if (_busy)
            return;
        _busy = true;
        _ = _context.Work.Track(SetRightAsync(_wanted, _revision)).PipeTo(Self);
    }

    private void End(Looked looked)
    {
        _busy = false;
        _failures = 0;
        if (looked.Revision == _revision)
            Context.Parent.Tell(new Told(_name, _revision, looked.Reading));
        LookIn(_again ? TimeSpan.Zero : ReadEvery);
    }

    private void LookIn(TimeSpan pause)
    {
        _next?.Dispose();
        _next = null;
        if (pause == TimeSpan.Zero)
        {
            Begin();
            return;
        }
        var self = Self;
        _next = _context.Clock.CreateTimer(_ => self.Tell(Look.Instance), null, pause, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Reads, and sets and reads once more where the VMM does something else than what is wanted.</summary>
    private async Task<object> SetRightAsync(RateLimit? wanted, ulong revision)
    {
        try
        {
            var reading = await _vmm.ReadLimiterAsync(_name, _context.Ending).ConfigureAwait(false);
            if (!Equals(reading?.InForce, wanted))
            {
                _log.Information("The rate limiter {Limiter} is set to {Limit}", _name, wanted?.ToString() ?? "no limit");
                await _vmm.SetLimiterAsync(_name, wanted, _context.Ending).ConfigureAwait(false);
                reading = await _vmm.ReadLimiterAsync(_name, _context.Ending).ConfigureAwait(false);
                if (!Equals(reading?.InForce, wanted))
                    throw new InvalidOperationException($"the VMM took it and does {reading?.InForce?.ToString() ?? "not limit"} all the same");
            }
            return new Looked(reading, revision);
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            return new Failed(failed);
        }
    }
}
