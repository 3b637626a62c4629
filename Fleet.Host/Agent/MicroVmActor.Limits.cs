using Akka.Actor;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf.Collections;

namespace Fleet.Host.Agent;

/// <summary>The rate limits of a microVM: wanted ones are written down first, then each limiter's actor brings them into force.</summary>
internal sealed partial class MicroVmActor
{
    private readonly Dictionary<string, Limiter> _limiters = new(StringComparer.Ordinal);
    private ulong _limitsInForce;

    /// <summary>Every rate limit from now on; one of a lower revision than what is written down changes nothing.</summary>
    public sealed record Retune(ulong Revision, MapField<string, RateLimit> Limits) : INoSerializationVerificationNeeded;

    private sealed record Limiter(IActorRef Actor)
    {
        /// <summary>The revision that it is known to follow.</summary>
        public ulong? Follows { get; set; }
    }

    private ulong WantedLimits => _record.Launch.LimitsRevision;

    private void OnRetune(Retune wanted)
    {
        if (wanted.Revision > WantedLimits)
        {
            // A launch under way reads the old one.
            var launch = _record.Launch.Clone();
            launch.LimitsRevision = wanted.Revision;
            launch.Spec.RateLimits.Clear();
            launch.Spec.RateLimits.Add(wanted.Limits);
            _record.Launch = launch;
            Write(durable: false);
            TuneLimiters();
        }

        if (wanted.Revision <= _limitsInForce)
            Carry([_life.Now()]);
    }

    /// <summary>Tells every limiter what is wanted of it, once there is a VMM.</summary>
    private void TuneLimiters()
    {
        if (_vmm is not { } vmm)
            return;
        foreach (var name in RateLimitRules.Names)
        {
            // Who has no interface has no limiters of one.
            if (NetworkRules.Limiter(name, name, _record.Launch.Spec) is not null)
                continue;
            var tune = new RateLimiterActor.Tune(_record.Launch.Spec.RateLimits.TryGetValue(name, out var limit) ? limit : null, WantedLimits);
            if (_limiters.TryGetValue(name, out var limiter))
            {
                limiter.Actor.Tell(tune);
            }
            else if (tune.Limit is not null || tune.Revision > 0)
            {
                // Also one that is not to limit: an agent that ended may have left the limit of an earlier revision.
                _limiters[name] = new(Context.ActorOf(Props.Create<RateLimiterActor>(name, tune, vmm, _context, _log), $"limiter-{name}"));
            }
        }

        SettleLimits();
    }

    private void OnLimiter(RateLimiterActor.Told told)
    {
        if (!_limiters.TryGetValue(told.Name, out var limiter))
            return;
        Context.Parent.Tell(new HostAgentActor.LimiterRead(_record.Launch.VmId, _record.Launch.Epoch, told.Name, told.Reading));
        limiter.Follows = told.Revision ?? limiter.Follows;
        if (SettleLimits() && _life.State == HostVmState.Running)
            Carry([_life.Now()]);
    }

    /// <summary>True when what is wanted has come into force only now.</summary>
    private bool SettleLimits()
    {
        if (_limitsInForce == WantedLimits || _limiters.Values.Any(limiter => limiter.Follows != WantedLimits))
            return false;
        _limitsInForce = WantedLimits;
        return true;
    }

    private void EndLimiters()
    {
        foreach (var (name, limiter) in _limiters)
        {
            Context.Stop(limiter.Actor);
            Context.Parent.Tell(new HostAgentActor.LimiterRead(_record.Launch.VmId, _record.Launch.Epoch, name, null));
        }

        _limiters.Clear();
    }
}
