using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Host.Pressure;
using Fleet.Host.Usage;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>What the machine and its microVMs use: sampled every 10 s and told to the control plane.</summary>
internal sealed partial class HostAgentActor
{
    private readonly UsageTable _usage = new();

    /// <summary>What a microVM has used, by its actor. <paramref name="At"/> is on a clock that nobody sets.</summary>
    public sealed record UseRead(string VmId, ulong Epoch, VmmUse Use, TimeSpan At) : INoSerializationVerificationNeeded;

    /// <summary>What one of a microVM's vCPUs has used, by its actor.</summary>
    public sealed record VcpuRead(string VmId, ulong Epoch, VcpuUsage Usage) : INoSerializationVerificationNeeded;

    /// <summary>What a microVM's balloon holds, by its actor.</summary>
    public sealed record BalloonRead(string VmId, ulong Epoch, uint Mib) : INoSerializationVerificationNeeded;

    /// <summary>What a microVM's guest said of itself, by its actor; null: something that can't be.</summary>
    public sealed record GuestRead(string VmId, ulong Epoch, GuestFigures? Figures) : INoSerializationVerificationNeeded;

    private void Answered(object message)
    {
        switch (message)
        {
            case UseRead read:
                _usage.Put(read.VmId, read.Epoch, read.Use, read.At);
                break;
            case VcpuRead read:
                _usage.Put(read.VmId, read.Epoch, read.Usage);
                break;
            case BalloonRead read:
                _usage.PutBalloon(read.VmId, read.Epoch, read.Mib);
                break;
            case GuestRead read:
                _usage.PutGuest(read.VmId, read.Epoch, read.Figures, Now);
                break;
        }
    }

    /// <summary>Tells what was answered since the last tick, and asks anew when it is time.</summary>
    private void Sample()
    {
        if (_session is { } session && !_waitsForRoom && _usage.Next(Now) is { } sample && session.TrySend(new HostMessage { Usage = sample }))
            _usage.Told();
        if (!_usage.IsDue(Now))
            return;
        if (_context.Reacts && _usage.CpuOfLastLook(Now) is { } cpu)
            Reacted(_reaction.TakeCpu(cpu, Now));
        _usage.Begin(MachineReading.Read(_context.Proc), Stalls.OfMachine(_context.Proc), Now);
        foreach (var entry in _vms.Values.Where(entry => entry.Report.State == HostVmState.Running))
            entry.Actor.Tell(MicroVmActor.ReadUse.Instance);
    }
}
