using System.Buffers;
using System.IO.Pipelines;
using System.Runtime.CompilerServices;
using System.Text;

namespace Fleet.Cli.Admin;

/// <summary>A stream's lines, each bounded: whoever writes them can't make us hold more.</summary>
internal static class LineReader
{
    /// <summary>Lines without their end, also a last one that has none; null in place of one that is longer than <paramref name="most"/> bytes.</summary>
    public static async IAsyncEnumerable<string?> ReadAsync(Stream stream, int most, [EnumeratorCancellation] CancellationToken cancellation)
    {
        var reader = PipeReader.Create(stream, new StreamPipeReaderOptions(leaveOpen: true));
        var tooLong = false;
        while (true)
        {
            var read = await reader.ReadAsync(cancellation);
            var left = read.Buffer;
            while (left.PositionOf((byte)'\n') is { } end)
            {
                var line = left.Slice(0, end);
                yield return tooLong || line.Length > most ? null : Encoding.UTF8.GetString(line).TrimEnd('\r');
                tooLong = false;
                left = left.Slice(left.GetPosition(1, end));
            }
            if (tooLong || left.Length > most)
            {
                tooLong = true;
                left = left.Slice(left.End);
            }
            if (read.IsCompleted)
            {
                if (tooLong || left.Length > 0)
                    yield return tooLong ? null : Encoding.UTF8.GetString(left).TrimEnd('\r');
                await reader.CompleteAsync();
                yield break;
            }
            reader.AdvanceTo(left.Start, left.End);
        }
    }
}
