using System.Net;
using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Serilog;
using ICell = Fleet.Scheduler.Cell.ICell;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>A cell of one node on a folder of its own, impatient, with every message really serialized.</summary>
internal sealed class TestCell : IAsyncDisposable
{
    private static long _lastId = Random.Shared.NextInt64(1L << 40);

    // FLEET_TEST_LOG names a file that the cells of a test run write their log to.
    private static readonly Serilog.ILogger Log = Environment.GetEnvironmentVariable("FLEET_TEST_LOG") is { Length: > 0 } file
        ? new LoggerConfiguration().MinimumLevel.Debug().WriteTo.File(file, shared: true, formatProvider: global::System.Globalization.CultureInfo.InvariantCulture).CreateLogger()
        : Serilog.Core.Logger.None;

    private readonly bool _ownsFolder;

    private TestCell(CellSystem system, string folder, bool ownsFolder)
    {
        System = system;
        Folder = folder;
        _ownsFolder = ownsFolder;
    }

    public CellSystem System { get; private set; }

    public string Folder { get; }

    public ICell Cell => System.Cell;

    public static CellOptions Options(string folder) => new()
    {
        DataDirectory = folder,
        Heartbeat = TimeSpan.FromMilliseconds(200),
        HostDeadAfter = TimeSpan.FromSeconds(2),
        PlacementRetry = TimeSpan.FromSeconds(2),
        CommandRetryFirst = TimeSpan.FromMilliseconds(100),
        CommandRetryMost = TimeSpan.FromMilliseconds(500),
        ReservationAudit = TimeSpan.FromMilliseconds(500),
        HostAnnounce = TimeSpan.FromSeconds(1),
        Log = Log,
        ExtraHocon = """
            akka.actor.serialize-messages = on
            akka.cluster.sharding.fail-on-invalid-entity-state-transition = on
            akka.actor.serializers.json = "Fleet.Scheduler.Tests.Cell.AkkaOnlySerializer, Fleet.Scheduler.Tests"
            akka.actor.serialization-identifiers."Fleet.Scheduler.Tests.Cell.AkkaOnlySerializer, Fleet.Scheduler.Tests" = 1
            """,
    };

    public static async Task<TestCell> StartAsync(Func<CellOptions, CellOptions>? change = null)
    {
        var folder = Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}");
        return new TestCell(await StartAsync(Options(folder), change), folder, ownsFolder: true);
    }

    /// <summary>Ends the node as a kill does: nothing is handed over, nothing said goodbye; then starts it on the same file.</summary>
    public async Task CrashAndRestartAsync(bool alreadyDown = false, Func<CellOptions, CellOptions>? change = null)
    {
        if (!alreadyDown)
            await CrashAsync();
        System = await StartAsync(Options(Folder), change);
    }

    private static Task<CellSystem> StartAsync(CellOptions options, Func<CellOptions, CellOptions>? change)
    {
        options = change?.Invoke(options) ?? options;
        // Whoever shares a database says where it is reached.
        return CellSystem.StartAsync(options is { Database: not null, RemotingPort: 0 } ? options with { RemotingPort = FreePort.Next() } : options, CancellationToken.None);
    }

    public async Task CrashAsync()
    {
        ((ExtendedActorSystem)System.ActorSystem).Abort();
        await System.ActorSystem.WhenTerminated.WaitAsync(Eventually.Bound);
    }

    public static string NewVmId() => "vm-" + Interlocked.Increment(ref _lastId).ToString("d26", global::System.Globalization.CultureInfo.InvariantCulture);

    public static VmSpec Spec(string name = "one", uint cpus = 1, uint memoryMib = 128) =>
        new() { Name = name, Cpus = cpus, MemoryMib = memoryMib, Driver = "simulated", Command = { "sh" } };

    public async Task<string> CreateAsync(VmSpec? spec = null)
    {
        var id = NewVmId();
        var answer = await Cell.CreateVmAsync(id, spec ?? Spec(), CancellationToken.None);
        Xunit.Assert.Null(answer.Problem);
        return id;
    }

    public async Task<VmRecord> WaitAsync(string id, params VmState[] states)
    {
        var answer = await Cell.WaitVmAsync(id, states.ToHashSet(), Eventually.Bound, CancellationToken.None);
        if (answer.Problem is not null)
            throw new Xunit.Sdk.XunitException($"{id}: {answer.Problem}: {answer.Vm}");
        return answer.Vm!;
    }

    public async Task<VmRecord> GetAsync(string id)
    {
        var answer = await Cell.GetVmAsync(id, CancellationToken.None);
        Xunit.Assert.Null(answer.Problem);
        return answer.Vm!;
    }

    public async Task<HostRecord> HostAsync(string id)
    {
        var answer = await Cell.GetHostAsync(id, CancellationToken.None);
        Xunit.Assert.Null(answer.Problem);
        return answer.Host!;
    }

    public async ValueTask DisposeAsync()
    {
        await System.DisposeAsync();
        if (_ownsFolder && Directory.Exists(Folder))
            Directory.Delete(Folder, recursive: true);
    }
}
