using System.Buffers.Binary;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Snapshots;

/// <summary>
/// The state file of a snapshot: magic, version, length, a checksum over it all, then two blocks: the configuration as
/// <c>GET /vm/config</c> tells it, and the machine's state. The memory is in a file of its own.
/// </summary>
/// <param name="Configuration">JSON.</param>
/// <param name="Machine">See <see cref="MachineState"/>.</param>
internal sealed record StateFile(byte[] Configuration, byte[] Machine)
{
    /// <summary>Of the format. Any change of what is written anywhere in it makes it another one; no program reads two.</summary>
    public const ushort Major = 1;

    public const ushort Minor = 0;

    public const ushort Patch = 0;

    /// <summary>32 vCPUs and all devices take a third of a MiB.</summary>
    public const int LargestFile = 10 * 1024 * 1024;

    /// <summary>"FLEETVM" and a byte that no text file has.</summary>
    private const ulong Magic = 0x8f_4d_56_54_45_45_4c_46;

    /// <summary>Firecracker's on x86-64, whose files have another content.</summary>
    private const ulong FirecrackerMagic = 0x0710_1984_8664_0000;

    /// <summary>Magic, three parts of the version and two bytes of nothing, length of the rest, checksum.</summary>
    private const int HeaderSize = 8 + 8 + 8 + 8;

    private const int ChecksumOffset = 24;

    public static string SupportedVersion => $"{Major}.{Minor}.{Patch}";

    public byte[] Encode()
    {
        var writer = new StateWriter();
        writer.U64(Magic);
        writer.U16(Major);
        writer.U16(Minor);
        writer.U16(Patch);
        writer.U16(0);
        writer.U64((ulong)(sizeof(uint) + Configuration.Length + sizeof(uint) + Machine.Length));
        writer.U64(0);
        writer.Block(Configuration);
        writer.Block(Machine);
        var file = writer.Written.ToArray();
        BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(ChecksumOffset), Checksum(file));
        return file;
    }

    /// <summary>Throws <see cref="SnapshotException"/>, which says what is wrong with the file.</summary>
    public static StateFile Decode(ReadOnlySpan<byte> file)
    {
        var version = VersionOf(file);
        if (version != SupportedVersion)
        {
            throw new SnapshotException($"it has version {version}, this program reads {SupportedVersion} only: restore it with the program that wrote it");
        }

        var length = BinaryPrimitives.ReadUInt64LittleEndian(file[16..]);
        var rest = (ulong)(file.Length - HeaderSize);
        if (length != rest)
        {
            throw new SnapshotException(rest < length ? $"it is cut short: {rest} of {length} bytes are there" : $"{rest - length} bytes stand behind its end");
        }

        if (BinaryPrimitives.ReadUInt64LittleEndian(file[ChecksumOffset..]) != Checksum(file))
        {
            throw new SnapshotException("it is damaged: its checksum is another one");
        }

        var reader = new StateReader(file[HeaderSize..]);
        var state = new StateFile(reader.Block().ToArray(), reader.Block().ToArray());
        reader.End("the file");
        return state;
    }

    /// <summary>Reads and decodes. Throws <see cref="SnapshotException"/> with the file's name.</summary>
    public static StateFile Load(string path) => Open(path, static file => Decode(file));

    /// <summary>The version of a state file of any version. Throws as <see cref="Load"/>.</summary>
    public static string Describe(string path) => Open(path, static file => VersionOf(file));

    private static T Open<T>(string path, Func<byte[], T> read)
    {
        try
        {
            return read(Descriptors.ReadFile(path, LargestFile));
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException or FileTooLargeException or SnapshotException)
        {
            throw new SnapshotException($"the state file {path} can't be used: {failure.Message}", failure);
        }
    }

    private static string VersionOf(ReadOnlySpan<byte> file)
    {
        if (file.Length < HeaderSize)
        {
            throw new SnapshotException(file.Length < sizeof(ulong) || BinaryPrimitives.ReadUInt64LittleEndian(file) != Magic
                ? "it is no state file of fleet-vmm"
                : $"it is cut short: {file.Length} bytes are there");
        }

        return BinaryPrimitives.ReadUInt64LittleEndian(file) switch
        {
            Magic => $"{BinaryPrimitives.ReadUInt16LittleEndian(file[8..])}.{BinaryPrimitives.ReadUInt16LittleEndian(file[10..])}.{BinaryPrimitives.ReadUInt16LittleEndian(file[12..])}",
            FirecrackerMagic => throw new SnapshotException("it is a snapshot of Firecracker's, which only Firecracker can restore"),
            _ => throw new SnapshotException("it is no state file of fleet-vmm"),
        };
    }

    // CRC-64 (ECMA-182, reflected) of everything but its own place.
    internal static ulong Checksum(ReadOnlySpan<byte> file) =>
        ~Continue(Continue(ulong.MaxValue, file[..ChecksumOffset]), file[HeaderSize..]);

    private static ulong Continue(ulong checksum, ReadOnlySpan<byte> bytes)
    {
        foreach (var value in bytes)
        {
            checksum = Table[(byte)(checksum ^ value)] ^ (checksum >> 8);
        }

        return checksum;
    }

    private static readonly ulong[] Table = MakeTable();

    private static ulong[] MakeTable()
    {
        const ulong Polynomial = 0xc96c5795d7870f42;
        var table = new ulong[256];
        for (var i = 0; i < table.Length; i++)
        {
            var value = (ulong)i;
            for (var bit = 0; bit < 8; bit++)
            {
                value = (value & 1) != 0 ? (value >> 1) ^ Polynomial : value >> 1;
            }

            table[i] = value;
        }

        return table;
    }
}
