using System.Collections.Concurrent;
using System.Globalization;
using Fleet.Benchmarks.Chaos;
using Fleet.Chaos.Harness;
using Fleet.Tests;

namespace Fleet.Benchmarks.Durable;

/// <summary>One scheduler, its journal in SQLite or PostgreSQL, and simulated hosts with a connection each. Leaves nothing behind.</summary>
internal sealed class DurableCell : IAsyncDisposable
{
    /// <summary>Its ports are its own there.</summary>
    private const string Address = "127.71.0.10";

    private readonly string _folder = Path.Combine(Path.GetTempPath(), $"fleet-durable-{Guid.NewGuid():n}");
    private readonly CancellationTokenSource _over = new();
    private readonly ConcurrentBag<SimulatedHost> _links = [];
    private readonly ConcurrentDictionary<string, HostSize> _sizes = new(StringComparer.Ordinal);
    private PostgresServer? _postgres;
    private CellCredentials? _credentials;
    private FleetProcess? _scheduler;

    private DurableCell()
    {
    }

    public static Uri Api { get; } = new($"https://{Address}:{Commands.ApiPort}");

    public CellCredentials Credentials => _credentials!;

    public FleetProcess Scheduler => _scheduler!;

    public Launches Launches { get; } = new();

    /// <summary>Of each host that was opened.</summary>
    public IReadOnlyDictionary<string, HostSize> Sizes => _sizes;

    public int LinksLost => _links.Count(link => link.Ended);

    /// <param name="journal"><c>sqlite</c> or <c>postgres</c>.</param>
    public static async Task<DurableCell> StartAsync(string journal)
    {
        var cell = new DurableCell();
        try
        {
            Directory.CreateDirectory(cell._folder);
            cell._postgres = journal == "postgres" ? await PostgresServer.StartAsync(folder: Path.Combine(cell._folder, "postgres")) : null;
            var database = cell._postgres is { } postgres ? string.Create(CultureInfo.InvariantCulture, $"postgresql://fleet@127.0.0.1:{postgres.Port}/postgres") : null;
            var data = Path.Combine(cell._folder, "scheduler");
            Directory.CreateDirectory(data, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            cell._credentials = new CellCredentials(data);
            cell._scheduler = new FleetProcess("scheduler", ["dotnet", ChaosFleet.Program, .. Commands.Scheduler(data, Address, TimeSpan.FromSeconds(60), database)], Path.Combine(cell._folder, "scheduler.out"));
            cell._scheduler.Start();
            return cell;
        }
        catch
        {
            await cell.DisposeAsync();
            throw;
        }
    }

    public Task OpenHostsAsync(IReadOnlyList<HostSize> sizes) =>
        Parallel.ForEachAsync(Enumerable.Range(0, sizes.Count), new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (at, _) =>
        {
            var id = string.Create(CultureInfo.InvariantCulture, $"host-{at}");
            _sizes[id] = sizes[at];
            _links.Add(await SimulatedHost.OpenAsync(id, sizes[at], new Uri($"https://{Address}:{Commands.LinkPort}"), Credentials, null, Launches.Note, _over.Token));
        });

    public async ValueTask DisposeAsync()
    {
        await _over.CancelAsync();
        foreach (var link in _links)
            link.Dispose();
        _scheduler?.Dispose();
        _credentials?.Dispose();
        if (_postgres is not null)
            await _postgres.DisposeAsync();
        _over.Dispose();
        if (Directory.Exists(_folder))
            Directory.Delete(_folder, recursive: true);
    }
}
