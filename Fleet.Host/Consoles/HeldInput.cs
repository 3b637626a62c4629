namespace Fleet.Host.Consoles;

/// <summary>
/// Console input that came before anybody in the guest could read it: a serial port that no driver has opened yet
/// loses what it is sent. Bounded; what comes above is dropped, as the port itself would.
/// </summary>
internal sealed class HeldInput
{
    /// <summary>Bytes that are kept: what the pipe to the VMM takes in one go.</summary>
    public const int Limit = 64 * 1024;

    private List<byte>? _held = [];

    /// <summary>What of it is to be passed on now: everything, or nothing while it is held.</summary>
    public ReadOnlyMemory<byte> Take(ReadOnlyMemory<byte> input)
    {
        if (_held is null)
            return input;
        _held.AddRange(input.Span[..Math.Min(input.Length, Limit - _held.Count)]);
        return default;
    }

    /// <summary>Somebody reads now: what was held, and from here on nothing is.</summary>
    public ReadOnlyMemory<byte> Release()
    {
        var held = _held;
        _held = null;
        return held?.ToArray();
    }
}
