using Fleet.Vmm.Api;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>State files that somebody changed: the frame as a whole, and a device's state with a checksum that fits.</summary>
internal sealed class SnapshotTarget : MutationTarget
{
    private readonly GuestMemory _memory = new(1 << 20);
    private readonly BalloonDevice _balloon;
    private readonly MmioTransport _transport;
    private readonly byte[][] _samples;

    public SnapshotTarget()
    {
        _balloon = new BalloonDevice(_memory, new BalloonSettings(1, true, 1, true));
        _transport = new MmioTransport(_balloon, _memory, static () => { }, static (_, _) => { }, static _ => { });
        var state = new StateWriter();
        _transport.Save(state);
        _samples = [state.Written.ToArray(), SnapshotFile.Frame(state.Written)];
    }

    public override string Name => "snapshot";

    protected override IReadOnlyList<byte[]> Samples => _samples;

    public override void Dispose()
    {
        _balloon.Dispose();
        _memory.Dispose();
        base.Dispose();
    }

    protected override void Parse(FuzzRandom random, ReadOnlySpan<byte> input)
    {
        try
        {
            _ = SnapshotFile.Open(input);
        }
        catch (SnapshotException)
        {
            // The answer to bad input.
        }

        try
        {
            var reader = new StateReader(input);
            _transport.Restore(ref reader);
            reader.End();
            for (var queue = 0; queue < 4; queue++)
            {
                _ = _transport.Process(queue);
            }
        }
        catch (Exception refused) when (refused is SnapshotException or JsonFaultException)
        {
            // As above.
        }
    }
}
