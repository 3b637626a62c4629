using System.Buffers.Binary;
using Fleet.Host.State;
using Google.Protobuf;

namespace Fleet.Host.Snapshots;

/// <summary>
/// How a snapshot goes from one host to another: messages with their length, then pieces of the two files, each with the file's number,
/// its place and its length; a piece of no file is the end. What is zero is left out.
/// </summary>
internal static class SnapshotStream
{
    public const int StateFile = 1;
    public const int MemoryFile = 2;
    public const int PieceBytes = 256 << 10;

    private const int End = 0;
    private const int LargestMessage = 512 << 10;
    private const int PieceHead = 1 + 8 + 4;

    public static async Task WriteAsync(Stream stream, IMessage message, CancellationToken cancellation)
    {
        var bytes = new byte[4 + message.CalculateSize()];
        BinaryPrimitives.WriteInt32LittleEndian(bytes, bytes.Length - 4);
        message.WriteTo(bytes.AsSpan(4));
        await stream.WriteAsync(bytes, cancellation).ConfigureAwait(false);
        await stream.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <exception cref="InvalidDataException">It is no such message, or too long.</exception>
    /// <exception cref="EndOfStreamException">The other side went away.</exception>
    public static async Task<T> ReadAsync<T>(Stream stream, MessageParser<T> parser, CancellationToken cancellation)
        where T : IMessage<T>
    {
        var head = new byte[4];
        await stream.ReadExactlyAsync(head, cancellation).ConfigureAwait(false);
        var length = BinaryPrimitives.ReadInt32LittleEndian(head);
        if (length is < 0 or > LargestMessage)
            throw new InvalidDataException($"a message of {length} bytes, and {LargestMessage} are taken");
        var body = new byte[length];
        await stream.ReadExactlyAsync(body, cancellation).ConfigureAwait(false);
        try
        {
            return parser.ParseFrom(body);
        }
        catch (InvalidProtocolBufferException wrong)
        {
            throw new InvalidDataException(wrong.Message, wrong);
        }
    }

    /// <summary>Sends both files of a snapshot.</summary>
    public static async Task SendAsync(Stream stream, string directory, SnapshotRecord record, CancellationToken cancellation)
    {
        if (record.StateBytes > 0)
            await SendFileAsync(stream, StateFile, Path.Combine(directory, SnapshotFiles.StateName(record.Epoch)), cancellation).ConfigureAwait(false);
        if (record.MemoryBytes > 0)
            await SendFileAsync(stream, MemoryFile, Path.Combine(directory, SnapshotFiles.MemoryName(record.Epoch)), cancellation).ConfigureAwait(false);
        await stream.WriteAsync(new byte[PieceHead], cancellation).ConfigureAwait(false);
        await stream.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>Takes both files of a snapshot, of the sizes that the record has.</summary>
    /// <param name="moves">Told after each piece: the other side is there.</param>
    /// <exception cref="InvalidDataException">A piece lies outside of its file.</exception>
    /// <exception cref="EndOfStreamException">The other side went away before the end.</exception>
    public static async Task ReceiveAsync(Stream stream, string directory, SnapshotRecord record, Action moves, CancellationToken cancellation)
    {
        using var state = NewFile(Path.Combine(directory, SnapshotFiles.StateName(record.Epoch)), record.StateBytes);
        using var memory = NewFile(Path.Combine(directory, SnapshotFiles.MemoryName(record.Epoch)), record.MemoryBytes);
        var head = new byte[PieceHead];
        var piece = new byte[PieceBytes];
        while (true)
        {
            await stream.ReadExactlyAsync(head, cancellation).ConfigureAwait(false);
            if (head[0] == End)
                break;
            var (file, size) = head[0] switch
            {
                StateFile => (state, record.StateBytes),
                MemoryFile => (memory, record.MemoryBytes),
                _ => throw new InvalidDataException($"there is no file {head[0]}"),
            };
            var place = BinaryPrimitives.ReadUInt64LittleEndian(head.AsSpan(1));
            var length = BinaryPrimitives.ReadInt32LittleEndian(head.AsSpan(9));
            if (length is <= 0 or > PieceBytes || place > size || (ulong)length > size - place)
                throw new InvalidDataException($"{length} bytes at {place} of a file of {size}");
            await stream.ReadExactlyAsync(piece.AsMemory(0, length), cancellation).ConfigureAwait(false);
            RandomAccess.Write(file, piece.AsSpan(0, length), (long)place);
            moves();
        }

        RandomAccess.FlushToDisk(state);
        RandomAccess.FlushToDisk(memory);
    }

    private static async Task SendFileAsync(Stream stream, byte number, string path, CancellationToken cancellation)
    {
        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, FileOptions.SequentialScan);
        var piece = new byte[PieceHead + PieceBytes];
        long place = 0;
        for (int read; (read = RandomAccess.Read(file, piece.AsSpan(PieceHead), place)) > 0; place += read)
        {
            if (!piece.AsSpan(PieceHead, read).ContainsAnyExcept((byte)0))
                continue;
            piece[0] = number;
            BinaryPrimitives.WriteUInt64LittleEndian(piece.AsSpan(1), (ulong)place);
            BinaryPrimitives.WriteInt32LittleEndian(piece.AsSpan(9), read);
            await stream.WriteAsync(piece.AsMemory(0, PieceHead + read), cancellation).ConfigureAwait(false);
        }
    }

    private static Microsoft.Win32.SafeHandles.SafeFileHandle NewFile(string path, ulong bytes)
    {
        File.Delete(path);
        File.WriteAllBytes(path, []);
        File.SetUnixFileMode(path, Fleet.Shared.Files.OwnFile.Private);
        var file = File.OpenHandle(path, FileMode.Open, FileAccess.Write, FileShare.None);
        try
        {
            RandomAccess.SetLength(file, (long)bytes);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }
}
