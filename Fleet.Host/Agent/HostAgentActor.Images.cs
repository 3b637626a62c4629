using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>Which images the host has, told when that has changed since it was told last: placement prefers hosts that have them.</summary>
internal sealed partial class HostAgentActor
{
    private int _imagesTold;

    private void TellImages()
    {
        if (_session is not { } session || _waitsForRoom || _context.Images is not { } images || images.Changes is var changes && changes == _imagesTold)
            return;
        if (session.TrySend(new HostMessage { Images = new ImagesHeld { Names = { images.ToldNames() } } }))
            _imagesTold = changes;
    }
}
