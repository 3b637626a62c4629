using Fleet.Host.Drivers;
using Fleet.Host.Networks;

namespace Fleet.Host.Agent;

/// <summary>The microVM's place in its tenant's network: the agent gave it, here it is made, and given back when no VMM is left.</summary>
internal sealed partial class MicroVmActor
{
    private VmmInterface? Interface => _record.Network is not null && _context.Networks.Find(_record.Launch.VmId) is { } place
        ? new VmmInterface(place, _context.Networks.TapOf(place))
        : null;

    /// <exception cref="LaunchFailedException">It can't be had.</exception>
    private async Task JoinNetworkAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        if (_record.Network is null)
            return;
        if (launch.Link is null)
            throw new LaunchFailedException(HostNetworks.Unavailable, "Its place in its tenant's network could not be read from its record.");
        await _context.Networks.AttachAsync(cancellation).ConfigureAwait(false);
    }

    // Before anybody hears that it has ended: who hears it may give its ports to another.
    private void LeaveNetwork()
    {
        if (_record.Network is not null && _context.Networks.Release(_record.Launch.VmId))
            _context.Work.Track(_context.Networks.SettleAsync(), _record.Launch.VmId);
    }
}
