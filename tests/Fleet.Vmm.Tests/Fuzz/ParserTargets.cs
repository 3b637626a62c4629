using System.Text;
using Fleet.Vmm.Api;
using Fleet.Vmm.Boot;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>Takes good input and breaks it in a few places.</summary>
internal abstract class MutationTarget : FuzzTarget
{
    private byte[] _buffer = new byte[1 << 16];

    /// <summary>Good input to begin with.</summary>
    protected abstract IReadOnlyList<byte[]> Samples { get; }

    public override void Run(FuzzRandom random)
    {
        var sample = Samples[random.Below(Samples.Count)];
        if (sample.Length * 2 > _buffer.Length)
        {
            _buffer = new byte[sample.Length * 4];
        }

        sample.CopyTo(_buffer, 0);
        var length = sample.Length;
        for (var i = random.Below(6); i > 0 && length > 0; i--)
        {
            var at = random.Below(length);
            switch (random.Below(6))
            {
                case 0:
                    _buffer[at] ^= (byte)(1 << random.Below(8));
                    break;
                case 1:
                    _buffer[at] = (byte)random.Next();
                    break;
                case 2:
                    length = at;
                    break;
                case 3 when length + 64 < _buffer.Length:
                    // A piece of it once more.
                    var piece = Math.Min(random.Below(64), length - at);
                    Array.Copy(_buffer, at, _buffer, at + piece, length - at);
                    length += piece;
                    break;
                case 4:
                    var number = BitConverter.GetBytes(random.Wild());
                    number.AsSpan(0, Math.Min(1 << random.Below(4), length - at)).CopyTo(_buffer.AsSpan(at));
                    break;
                default:
                    var gone = Math.Min(random.Below(16), length - at);
                    Array.Copy(_buffer, at + gone, _buffer, at, length - at - gone);
                    length -= gone;
                    break;
            }
        }

        Parse(random, _buffer.AsSpan(0, length));
    }

    protected abstract void Parse(FuzzRandom random, ReadOnlySpan<byte> input);
}

/// <summary>Bodies of requests, and configuration files; they are read, and nothing is done with them.</summary>
internal sealed class JsonTarget : MutationTarget
{
    private const string Limiter = """{"bandwidth": {"size": 1, "one_time_burst": 2, "refill_time": 3}, "ops": null}""";

    private delegate void Reader(ref JsonBody body);

    private static readonly (string Sample, Reader Read)[] Bodies =
    [
        ("""{"kernel_image_path": "/a", "boot_args": "b\u00e9", "initrd_path": null}""", static (ref JsonBody body) => BootSource.Read(ref body)),
        ("""{"vcpu_count": 2, "mem_size_mib": 128, "smt": false, "huge_pages": "None"}""", static (ref JsonBody body) => MachineConfigUpdate.Read(ref body, complete: true)),
        ($$"""{"drive_id": "d", "is_root_device": true, "path_on_host": "/d", "cache_type": "Unsafe", "rate_limiter": {{Limiter}}}""", static (ref JsonBody body) => DriveConfig.Read(ref body)),
        ($$"""{"drive_id": "d", "path_on_host": "/d", "rate_limiter": {{Limiter}}}""", static (ref JsonBody body) => DriveConfig.ReadUpdate(ref body)),
        ($$"""{"iface_id": "e", "host_dev_name": "t", "guest_mac": "02:00:00:00:00:01", "mtu": 1500, "rx_rate_limiter": {{Limiter}}}""", static (ref JsonBody body) => NetworkConfig.Read(ref body)),
        ($$"""{"iface_id": "e", "tx_rate_limiter": {{Limiter}}}""", static (ref JsonBody body) => NetworkConfig.ReadUpdate(ref body)),
        ($$"""{"rate_limiter": {{Limiter}}}""", static (ref JsonBody body) => EntropyConfig.Read(ref body)),
        ("""{"level": "Info", "log_path": "/l", "show_level": true, "show_log_origin": false}""", static (ref JsonBody body) => LoggerConfig.Read(ref body)),
        ("""{"metrics_path": "/m", "properties": {"a": "b", "c": "d"}}""", static (ref JsonBody body) => MetricsConfig.Read(ref body)),
        ("""{"action_type": "InstanceStart"}""", static (ref JsonBody body) => SingleFieldBody.ReadAction(ref body)),
        ("""{"state": "Paused"}""", static (ref JsonBody body) => SingleFieldBody.ReadWantsPause(ref body)),
    ];

    private static readonly byte[] File = Encoding.UTF8.GetBytes(
        $$"""{"boot-source": {"kernel_image_path": "/a"}, "drives": [{"drive_id": "d", "is_root_device": true, "path_on_host": "/d"}], "entropy": {"rate_limiter": {{Limiter}}}, "network-interfaces": [], "vsock": null}""");

    private static readonly byte[][] All = [.. Bodies.Select(body => Encoding.UTF8.GetBytes(body.Sample)), File];

    public override string Name => "json";

    protected override IReadOnlyList<byte[]> Samples => All;

    protected override void Parse(FuzzRandom random, ReadOnlySpan<byte> input)
    {
        try
        {
            if (random.OneIn(4))
            {
                _ = ConfigFile.Parse(input);
                return;
            }

            var body = new JsonBody(input);
            body.Begin();
            Bodies[random.Below(Bodies.Length)].Read(ref body);
            body.End();
        }
        catch (Exception refused) when (refused is JsonFaultException or ApiFaultException)
        {
            // The answer to bad input.
        }
    }
}

internal sealed class HttpTarget : MutationTarget
{
    private static readonly byte[][] Heads =
    [
        "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"u8.ToArray(),
        "PUT /actions HTTP/1.0\r\nContent-Length: 12\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\r\n"u8.ToArray(),
        "PATCH /vm HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nAccept-Encoding: identity;q=0\r\n\r\n"u8.ToArray(),
    ];

    public override string Name => "http";

    protected override IReadOnlyList<byte[]> Samples => Heads;

    protected override void Parse(FuzzRandom random, ReadOnlySpan<byte> input)
    {
        try
        {
            _ = HttpRequestHead.Parse(input, 51200);
        }
        catch (BadRequestException)
        {
            // The answer to bad input.
        }
    }
}

internal sealed class KernelTarget : MutationTarget
{
    private readonly GuestMemory _memory = new(8 << 20);
    private readonly string _path = Path.GetTempFileName();
    private readonly FileStream _file;

    public KernelTarget() => _file = new FileStream(_path, FileMode.Create, FileAccess.Write, FileShare.Read, bufferSize: 0);

    private static readonly byte[][] Kernels = [ElfImage.Linux64(GuestPrograms.Hello), ElfImage.Pvh(GuestPrograms.Unclaimed), Bz()];

    public override string Name => "kernel";

    protected override IReadOnlyList<byte[]> Samples => Kernels;

    public override void Dispose()
    {
        _file.Dispose();
        _memory.Dispose();
        File.Delete(_path);
        base.Dispose();
    }

    protected override void Parse(FuzzRandom random, ReadOnlySpan<byte> input)
    {
        _file.SetLength(0);
        _file.Position = 0;
        _file.Write(input);
        using var file = new FileContent(_path);
        try
        {
            _ = KernelImage.Load(_memory, file);
        }
        catch (Exception refused) when (refused is MachineException or GuestMemoryException)
        {
            // The answer to bad input.
        }
    }

    // A bzImage: boot sector with the header of protocol 2.15, one setup sector, a little code.
    private static byte[] Bz()
    {
        var image = new byte[512 * 5];
        image[0x1f1] = 1;
        image[0x1fe] = 0x55;
        image[0x1ff] = 0xaa;
        "HdrS"u8.CopyTo(image.AsSpan(0x202));
        BitConverter.GetBytes((ushort)0x20f).CopyTo(image, 0x206);
        image[0x211] = 1;
        BitConverter.GetBytes(0x100000u).CopyTo(image, 0x214);
        BitConverter.GetBytes(0x7fffffffu).CopyTo(image, 0x22c);
        BitConverter.GetBytes(0x200000u).CopyTo(image, 0x230);
        image[0x234] = 1;
        image[0x236] = 3;
        BitConverter.GetBytes(2047u).CopyTo(image, 0x238);
        BitConverter.GetBytes(0x100000ul).CopyTo(image, 0x258);
        BitConverter.GetBytes(0x1000u).CopyTo(image, 0x260);
        return image;
    }
}
