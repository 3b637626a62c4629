using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Host.Logs;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;

namespace Fleet.Host.Agent;

/// <summary>What fleet-init hands over by itself: the command's output, and what the guest says of itself.</summary>
internal sealed partial class MicroVmActor
{
    private sealed record GuestSaid(ReadOnlyMemory<byte> Figures) : INoSerializationVerificationNeeded;

    private LogExtent? _extent;

    private sealed record LogOver(VmmEnd End, LogExtent? Log) : INoSerializationVerificationNeeded;

    private async Task<LogExtent?> ReadLogAsync(Task over)
    {
        await over.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        try
        {
            return LogCursor.Extent(_context.State.FolderOf(_record.Launch.VmId));
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            _log.Warning(failed, "What the command of {VmId} wrote can't be looked at", _record.Launch.VmId);
            return null;
        }
    }

    private void KeepLog(IVmm vmm)
    {
        // A kernel of the user's own has no fleet-init.
        if (_record.Launch.Spec.Boot is not null)
            return;
        var self = Self;
        _guests.KeepLog(vmm, _context.State.FolderOf(_record.Launch.VmId), _context.LogPace, figures => self.Tell(new GuestSaid(figures)));
    }

    private void OnGuestSaid(GuestSaid said)
    {
        GuestFigures? figures = null;
        if (FiguresPayload.Read(said.Figures.Span, _record.Launch.Spec.MemoryMib) is { } plausible)
        {
            figures = new GuestFigures
            {
                MemoryKib = plausible.MemoryKib, AvailableKib = plausible.AvailableKib, Load1 = plausible.Load1, Load5 = plausible.Load5, Load15 = plausible.Load15,
                Tasks = plausible.Tasks, Health = (uint)plausible.Health, HealthFailures = plausible.HealthFailures,
            };
        }

        Context.Parent.Tell(new HostAgentActor.GuestRead(_record.Launch.VmId, _record.Launch.Epoch, figures));
    }
}
