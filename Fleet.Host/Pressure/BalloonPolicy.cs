namespace Fleet.Host.Pressure;

/// <summary>What a microVM's balloon holds, and what its guest says of its memory; a guest may say anything, and pays for it itself.</summary>
/// <param name="TargetMib">What the guest is asked to do without.</param>
/// <param name="ActualMib">What it has handed over.</param>
/// <param name="AvailableMib">What it could use without swapping; null: it has not told, as one without the driver never does.</param>
/// <param name="Troubles">Pages swapped in, allocations that stalled, processes killed for want of memory, so far.</param>
public sealed record BalloonReading(uint TargetMib, uint ActualMib, ulong? AvailableMib, ulong Troubles);

/// <summary>
/// How much memory a guest is asked for while its host is short: of what it says is available a part stays with it, the rest is taken in steps, and
/// given back at the first sign of want. In calm all of it goes back. Not safe for several threads.
/// </summary>
/// <param name="memoryMib">That the guest has.</param>
internal sealed class BalloonPolicy(uint memoryMib)
{
    /// <summary>Between two looks: the guest has handed over what it was asked for by then, and told how it fares.</summary>
    public static readonly TimeSpan Every = TimeSpan.FromSeconds(5);

    /// <summary>A guest that was in want is left alone for so long.</summary>
    public static readonly TimeSpan Rest = TimeSpan.FromMinutes(2);

    /// <summary>Never more than this part of its memory, whatever it says.</summary>
    private const uint MostPart = 2;

    private const uint StepPart = 16;
    private const uint ReturnPart = 8;

    /// <summary>Stays with the guest: an eighth of its memory, at least this. Page cache that it reads from again is not waste.</summary>
    private const uint LeastReserveMib = 64;

    private ulong? _troubles;
    private TimeSpan? _restUntil;

    private uint Reserve => Math.Max(LeastReserveMib, memoryMib / 8);

    /// <summary>MiB that the guest is to be asked for now.</summary>
    /// <param name="reading">What was just read.</param>
    /// <param name="isShort">The host is short of memory.</param>
    /// <param name="now">On a clock that nobody sets.</param>
    public uint Next(BalloonReading reading, bool isShort, TimeSpan now)
    {
        var inWant = _troubles is { } before && reading.Troubles > before;
        _troubles = reading.Troubles;
        if (inWant)
            _restUntil = now + Rest;
        var target = Math.Min(reading.TargetMib, memoryMib);
        if (inWant)
            return target / 2;
        if (!isShort)
            return target - Math.Min(target, Math.Max(1, memoryMib / ReturnPart));
        // Nothing is known of what it needs: what it has left stays, and nothing more is taken.
        if (reading.AvailableMib is not { } available)
            return target;
        if (available < Reserve)
            return target - (uint)Math.Min(target, Reserve - available);
        // It has not handed over yet what it was asked for, and may not be able to.
        if (now < _restUntil || reading.ActualMib < target)
            return target;
        var spare = Math.Min(available - Reserve, int.MaxValue);
        // Half of it at a time, since what it says is some seconds old.
        var step = Math.Min((uint)spare / 2, memoryMib / StepPart);
        return Math.Max(target, Math.Min(target + step, memoryMib / MostPart));
    }
}
