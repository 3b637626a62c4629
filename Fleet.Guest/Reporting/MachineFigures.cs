using System.Buffers.Text;
using System.Text;
using Fleet.Guest.Linux;
using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Reporting;

/// <summary>What this machine's kernel says of its memory and load, for the host.</summary>
internal static class MachineFigures
{
    private const int LargestFile = 16 * 1024;

    /// <summary>As they are now; what can't be read is 0.</summary>
    public static FiguresPayload Read(HealthState health, ushort failures) => Parse(
        Files.Read("/proc/meminfo", LargestFile, out _) ?? [], Files.Read("/proc/loadavg", LargestFile, out _) ?? []) with { Health = health, HealthFailures = failures, LogWindows = StreamLedger.LogWindows };

    /// <summary>Of the two files' bytes.</summary>
    internal static FiguresPayload Parse(ReadOnlySpan<byte> memory, ReadOnlySpan<byte> load)
    {
        // "0.20 0.18 0.12 1/80 11206": three averages, then running and all tasks.
        Span<uint> loads = stackalloc uint[3];
        foreach (ref var one in loads)
        {
            var end = load.IndexOf((byte)' ');
            if (end < 0) break;
            one = Utf8Parser.TryParse(load[..end], out double average, out _) && average is >= 0 and < uint.MaxValue / 100 ? (uint)(average * 100 + 0.5) : 0;
            load = load[(end + 1)..];
        }
        var slash = load.IndexOf((byte)'/');
        var tasks = slash >= 0 && Utf8Parser.TryParse(load[(slash + 1)..], out uint all, out _) ? all : 0;
        return new FiguresPayload(Kib(memory, "MemTotal:"), Kib(memory, "MemAvailable:"), loads[0], loads[1], loads[2], tasks, HealthState.None, 0);
    }

    private static ulong Kib(ReadOnlySpan<byte> memory, string name)
    {
        var at = memory.IndexOf(Encoding.ASCII.GetBytes(name));
        return at >= 0 && Utf8Parser.TryParse(memory[(at + name.Length)..].TrimStart((byte)' '), out ulong kib, out _) ? kib : 0;
    }
}
