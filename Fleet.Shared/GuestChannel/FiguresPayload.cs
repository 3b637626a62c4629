using System.Buffers.Binary;

namespace Fleet.Shared.GuestChannel;

/// <summary>How the microVM's health check goes. Numbers are for ever.</summary>
public enum HealthState : byte
{
    /// <summary>It has none.</summary>
    None = 0,

    /// <summary>No check has ended yet, or none of those in its start period has passed.</summary>
    Starting = 1,

    /// <summary>The last check passed.</summary>
    Passing = 2,

    /// <summary>The last check failed; of so many in a row it is ended.</summary>
    Failing = 3,
}

/// <summary>What a guest says of itself: payload of <see cref="FrameType.Figures"/>, numbers little-endian. A stranger's word.</summary>
/// <param name="MemoryKib">All of its memory that its kernel gives out.</param>
/// <param name="AvailableKib">What of it programs could still have.</param>
/// <param name="Load1">Load average of one minute, hundredths.</param>
/// <param name="Load5">Of five minutes.</param>
/// <param name="Load15">Of fifteen minutes.</param>
/// <param name="Tasks">Processes and threads.</param>
/// <param name="Health">How its health check goes.</param>
/// <param name="HealthFailures">Checks that failed in a row.</param>
/// <param name="LogWindows">So many windows the stream of the command's output may have at once; 0: one, as before there was this.</param>
public readonly record struct FiguresPayload(
    ulong MemoryKib, ulong AvailableKib, uint Load1, uint Load5, uint Load15, uint Tasks, HealthState Health, ushort HealthFailures, byte LogWindows = 0)
{
    public const int Bytes = 36;

    private const int LogWindowsAt = 33;

    /// <summary>A load above it is absurd: the kernel takes no more tasks than this.</summary>
    private const uint MostTasks = 4 << 20;

    public void Write(Span<byte> target)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(target, MemoryKib);
        BinaryPrimitives.WriteUInt64LittleEndian(target[8..], AvailableKib);
        BinaryPrimitives.WriteUInt32LittleEndian(target[16..], Load1);
        BinaryPrimitives.WriteUInt32LittleEndian(target[20..], Load5);
        BinaryPrimitives.WriteUInt32LittleEndian(target[24..], Load15);
        BinaryPrimitives.WriteUInt32LittleEndian(target[28..], Tasks);
        target[32] = (byte)Health;
        target[LogWindowsAt] = LogWindows;
        BinaryPrimitives.WriteUInt16LittleEndian(target[34..], HealthFailures);
    }

    /// <summary>That alone, of any payload of so many <see cref="Bytes"/>.</summary>
    public static byte LogWindowsOf(ReadOnlySpan<byte> payload) => payload[LogWindowsAt];

    /// <summary>What a guest of that size can say; null: it can't.</summary>
    /// <param name="payload">As it came.</param>
    /// <param name="memoryMib">What the guest was given.</param>
    public static FiguresPayload? Read(ReadOnlySpan<byte> payload, uint memoryMib)
    {
        if (payload.Length != Bytes) return null;
        var figures = new FiguresPayload(
            BinaryPrimitives.ReadUInt64LittleEndian(payload), BinaryPrimitives.ReadUInt64LittleEndian(payload[8..]), BinaryPrimitives.ReadUInt32LittleEndian(payload[16..]),
            BinaryPrimitives.ReadUInt32LittleEndian(payload[20..]), BinaryPrimitives.ReadUInt32LittleEndian(payload[24..]), BinaryPrimitives.ReadUInt32LittleEndian(payload[28..]),
            (HealthState)payload[32], BinaryPrimitives.ReadUInt16LittleEndian(payload[34..]), LogWindowsOf(payload));
        return figures.MemoryKib <= (ulong)memoryMib * 1024 && figures.AvailableKib <= figures.MemoryKib && figures.Health <= HealthState.Failing && figures.Tasks <= MostTasks
            && Math.Max(figures.Load1, Math.Max(figures.Load5, figures.Load15)) / 100 <= MostTasks ? figures : null;
    }
}
