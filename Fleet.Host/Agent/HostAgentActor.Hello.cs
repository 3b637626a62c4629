using Akka.Actor;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>What a Hello tells of the host, which the link asks for each time it has dialled.</summary>
internal sealed partial class HostAgentActor
{
    /// <summary>Asks for what Hello tells of the host as it is now.</summary>
    public sealed class GetReports : INoSerializationVerificationNeeded
    {
        public static readonly GetReports Instance = new();
    }

    /// <summary>The answer to <see cref="GetReports"/>.</summary>
    /// <param name="Vms">The newest report of every microVM.</param>
    /// <param name="Pressure">Null: the host does nothing about it.</param>
    public sealed record Reports(VmReport[] Vms, PressureReport? Pressure) : INoSerializationVerificationNeeded;

    private Reports TellReports() =>
        new([.. _vms.Values.Where(entry => entry.Report.State != HostVmState.Removed).Select(entry => entry.Report.Clone())], _context.Reacts ? _reaction.Told : null);
}
