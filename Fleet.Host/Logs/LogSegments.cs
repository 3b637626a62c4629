using System.Buffers.Binary;
using System.Globalization;

namespace Fleet.Host.Logs;

/// <summary>Which of a command's outputs wrote something. Numbers are for ever: they stand in files.</summary>
public enum LogStreamKind : byte
{
    /// <summary>Standard output.</summary>
    Output = 1,

    /// <summary>Standard error.</summary>
    Errors = 2,
}

/// <summary>What stands before the bytes of one record.</summary>
/// <param name="Length">Bytes behind it, 1 to <see cref="LogSegments.MaxPayload"/>.</param>
/// <param name="Kind">Which output wrote them.</param>
/// <param name="At">When the host got them, microseconds since 1970.</param>
/// <param name="Position">Of the first byte in all that the command wrote to both.</param>
internal readonly record struct LogRecordHeader(int Length, LogStreamKind Kind, long At, ulong Position)
{
    public const int Bytes = 24;

    private const ushort Marker = 0x4C46;

    public void Write(Span<byte> target)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(target, Marker);
        target[2] = (byte)Kind;
        target[3] = 0;
        BinaryPrimitives.WriteInt32LittleEndian(target[4..], Length);
        BinaryPrimitives.WriteInt64LittleEndian(target[8..], At);
        BinaryPrimitives.WriteUInt64LittleEndian(target[16..], Position);
    }

    /// <summary>False: these bytes are none.</summary>
    public static bool TryRead(ReadOnlySpan<byte> bytes, out LogRecordHeader header)
    {
        header = default;
        if (bytes.Length < Bytes || BinaryPrimitives.ReadUInt16LittleEndian(bytes) != Marker || bytes[2] is not (1 or 2)) return false;
        var length = BinaryPrimitives.ReadInt32LittleEndian(bytes[4..]);
        if (length is < 1 or > LogSegments.MaxPayload) return false;
        header = new(length, (LogStreamKind)bytes[2], BinaryPrimitives.ReadInt64LittleEndian(bytes[8..]), BinaryPrimitives.ReadUInt64LittleEndian(bytes[16..]));
        return true;
    }
}

/// <summary>
/// The files in a microVM's directory that hold what its command wrote: <c>log.1</c>, <c>log.2</c> and so on, of which the oldest go. Only the host
/// writes them; records never lie in two of them.
/// </summary>
internal static class LogSegments
{
    /// <summary>Most bytes of one record.</summary>
    public const int MaxPayload = 16 * 1024;

    /// <summary>A file that has so many bytes gets no more.</summary>
    public const long SegmentBytes = 4 << 20;

    /// <summary>Files that are kept: 16 MiB of a microVM, and a record.</summary>
    public const int MostSegments = 4;

    private const string Prefix = "log.";

    public static string PathOf(string directory, long number) => Path.Combine(directory, Prefix + number.ToString(CultureInfo.InvariantCulture));

    /// <summary>Numbers of the files that there are, rising.</summary>
    public static IReadOnlyList<long> List(string directory)
    {
        try
        {
            var numbers = new List<long>();
            foreach (var path in Directory.EnumerateFiles(directory, Prefix + "*"))
            {
                if (long.TryParse(Path.GetFileName(path.AsSpan())[Prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var number)) numbers.Add(number);
            }
            numbers.Sort();
            return numbers;
        }
        catch (DirectoryNotFoundException)
        {
            return [];
        }
    }

    /// <summary>Removes all of them.</summary>
    public static void Delete(string directory)
    {
        foreach (var number in List(directory)) File.Delete(PathOf(directory, number));
    }
}
