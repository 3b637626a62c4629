using System.Diagnostics;
using System.Globalization;
using System.Text;
using Fleet.Benchmarks.Lab;
using Fleet.Host.Drivers;
using Fleet.Host.Guests;
using Fleet.Host.Images;
using Fleet.Host.Lab;
using Fleet.Host.Link;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Fleet.Tests;
using Google.Protobuf;
using Serilog.Core;

namespace Fleet.Benchmarks.Exec;

/// <summary>
/// <c>fleet bench exec</c>: a command in a Linux guest under fleet-vmm in a lab node, from the agent's side of it (<see cref="GuestStreams"/>) through vsock and
/// fleet-init and back with its exit status, against one byte there and back over a vsock connection of its own to a program in the same guest.
/// Both are driven by this program, which runs in the node.
/// </summary>
internal static class ExecBenchmark
{
    private const string VmId = "vm-01jd8mbr4v3s6q8k2n0x5t7w9z";
    private const uint EchoPort = 5001;
    private const int Rounds = 20, PerRound = 20;
    private const int MostStuck = 3;

    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(6);
    private static readonly TimeSpan Boot = TimeSpan.FromMinutes(2);
    private static readonly byte[] True = """{"argv":["true"],"env":{},"tty":false,"rows":24,"columns":80}"""u8.ToArray();

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options) =>
        (options.Number("inside", 0) == 0 ? OutsideAsync() : InsideAsync()).GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> OutsideAsync()
    {
        for (var stuck = 0; ; stuck++)
        {
            await using var bench = await LabBench.StartAsync();
            try
            {
                var output = await bench.RunAsync($"FLEET_BENCH_LOAD={bench.Load} exec dotnet {typeof(ExecBenchmark).Assembly.Location} exec --inside 1", Limit);
                if (LabBench.Results(output) is not [[var command, var call, var echo]])
                    throw new BenchmarkException($"no figures in: {output}");
                return
                [
                    new("exec_ratio", command / call, ""),
                    new("exec_true", command, "ms", "vsock, a connection for one byte there and back", call),
                    new("vsock_byte", echo, "ms"),
                ];
            }
            catch (LabException) when (stuck < MostStuck)
            {
                await Console.Error.WriteLineAsync("exec: the lab node or its guest stood still; going on in another");
            }
        }
    }

    private static async Task<IReadOnlyList<Measurement>> InsideAsync()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-bench-").FullName;
        using var images = new DefaultImageStore(
            new ImageOptions(Path.Combine(Checkout.Artifacts, "test-images"), Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Logger.None);
        var driver = new KvmDriver(new DriverOptions(Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new WithLoad(images)));
        var spec = new VmSpec { Name = "bench", Cpus = 1, MemoryMib = 256, Command = { "/load", "echo", EchoPort.ToString(CultureInfo.InvariantCulture) } };
        var launch = new VmmLaunch(VmId, 1, spec, Path.Combine(folder, VmId));
        await using var vmm = await driver.LaunchAsync(launch, default);
        try
        {
            await vmm.GuestReady.WaitAsync(Boot);
            await MeasureAsync(vmm, launch.Directory);
        }
        finally
        {
            await vmm.StopAsync(TimeSpan.Zero);
            Directory.Delete(folder, recursive: true);
        }
        return [];
    }

    private static async Task MeasureAsync(IVmm vmm, string directory)
    {
        using var link = new CancellationTokenSource();
        var session = new LinkSession(link);
        await using var answers = session.ReadAllAsync(CancellationToken.None).GetAsyncEnumerator();
        var streams = new GuestStreams(TimeProvider.System, Logger.None);
        using var staying = await ReachAsync(directory);
        ulong stream = 0;
        List<double> commands = [], calls = [], echoes = [];
        // In turns, so that what else the machine does hits all alike; the first round is not counted: code is compiled in it.
        for (var round = 0; round <= Rounds; round++)
        {
            foreach (var (all, once) in new (List<double>, Func<Task>)[] { (commands, CommandAsync), (calls, CallAsync), (echoes, () => EchoAsync(staying)) })
            {
                for (var i = 0; i < PerRound; i++)
                {
                    var began = Stopwatch.GetTimestamp();
                    await once();
                    if (round > 0)
                        all.Add(Stopwatch.GetElapsedTime(began).TotalMilliseconds);
                }
            }
        }

        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"RESULT {LabBench.Median(commands):0.0000} {LabBench.Median(calls):0.0000} {LabBench.Median(echoes):0.0000}"));
        await streams.EndAsync("The benchmark is over.");

        async Task CommandAsync()
        {
            streams.Take(vmm, new GuestFrame { StreamId = ++stream, VmId = VmId, Type = (uint)FrameType.Open, Payload = ByteString.CopyFrom(True) }, session);
            while (await answers.MoveNextAsync())
            {
                var frame = answers.Current.GuestFrame;
                if (frame.Type == (uint)FrameType.Exit && frame.Payload.Span.IndexOfAnyExcept((byte)0) < 0)
                    return;
                if (frame.Type != (uint)FrameType.Started)
                    throw new BenchmarkException($"true did not end well: {(FrameType)frame.Type} {frame.Payload.ToStringUtf8()}");
            }
        }

        async Task CallAsync()
        {
            using var connection = await ConnectAsync(directory);
            await EchoAsync(connection);
        }
    }

    /// <summary>To the program in the guest: as Firecracker has it, <c>CONNECT port</c> is answered when the guest has taken it.</summary>
    private static async Task<Stream> ConnectAsync(string directory)
    {
        var connection = new System.Net.Sockets.NetworkStream(await VmmSocket.ConnectAsync(directory, VmmFiles.GuestSocket, default), ownsSocket: true);
        await connection.WriteAsync(Encoding.ASCII.GetBytes($"CONNECT {EchoPort}\n"));
        var letter = new byte[1];
        do
        {
            if (await connection.ReadAsync(letter) == 0)
                throw new BenchmarkException("the program in the guest takes no connection");
        }
        while (letter[0] != '\n');
        return connection;
    }

    /// <summary>The guest is ready when its command is about to begin.</summary>
    private static async Task<Stream> ReachAsync(string directory)
    {
        for (var began = Stopwatch.GetTimestamp(); ; await Task.Delay(50))
        {
            try
            {
                return await ConnectAsync(directory);
            }
            catch (Exception notYet) when (notYet is BenchmarkException or IOException && Stopwatch.GetElapsedTime(began) < Boot)
            {
            }
        }
    }

    private static async Task EchoAsync(Stream connection)
    {
        var letter = new byte[1];
        await connection.WriteAsync(letter);
        if (await connection.ReadAsync(letter) == 0)
            throw new BenchmarkException("the program in the guest is gone");
    }

    /// <summary>The default image with the load generator in it.</summary>
    private sealed class WithLoad(DefaultImageStore images) : IImageSource
    {
        public Task<BootImage> GetDefaultAsync(CancellationToken cancellation) => images.GetDefaultAsync(cancellation);

        public async Task WriteInitrdAsync(BootImage image, GuestRun run, string path, CancellationToken cancellation)
        {
            await images.WriteInitrdAsync(image, run, path, cancellation);
            await using var file = new FileStream(path, FileMode.Append, FileAccess.Write);
            new CpioWriter().AddFileFrom("load", Environment.GetEnvironmentVariable("FLEET_BENCH_LOAD")!, 0x1ED).WriteTo(file);
        }
    }
}
