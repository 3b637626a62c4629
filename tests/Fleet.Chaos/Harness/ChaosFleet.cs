using System.Data.Common;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Faults;
using Fleet.Chaos.Network;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Google.Protobuf;
using Microsoft.Data.Sqlite;
using Npgsql;

namespace Fleet.Chaos.Harness;

/// <summary>What stands.</summary>
internal sealed record FleetOptions
{
    /// <summary>More than one share a PostgreSQL database, which has a node of its own.</summary>
    public int Schedulers { get; init; } = 1;

    public bool HasDatabase => Schedulers > 1;

    public int Hosts { get; init; } = 4;

    /// <summary>How many of them are started; the others are there and wait.</summary>
    public int? HostsAtStart { get; init; }

    public TimeSpan Lease { get; init; } = TimeSpan.FromSeconds(20);

    /// <summary>Of each host; what it may promise is four times as many vCPUs (the product's default ratio) and the memory once.</summary>
    public int CpusPerHost { get; init; } = 8;

    public int MemoryMibPerHost { get; init; } = 1024;

    /// <summary>Hosts have small disks of their own as well.</summary>
    public bool HasHostDisks { get; init; }

    public const ulong CpuRatio = 4;
}

/// <summary>
/// A whole fleet of real processes, each in a network of its own, all joined by a <see cref="PacketSwitch"/>; its state is in a temporary folder, the
/// schedulers' on small disks of their own. Disposing it ends every process and takes networks, disks and files away; what a harness that was
/// killed left behind the next one takes away.
/// </summary>
internal sealed class ChaosFleet : IAsyncDisposable
{
    private const string FolderPrefix = "fleet-chaos-";
    private const string SchedulerDisk = "192m";

    /// <summary>Jails have what they need in there, each its own.</summary>
    private const string HostDisk = "1g";

    /// <summary>PostgreSQL keeps its log of changes in whole files of 16 MiB.</summary>
    private const string DatabaseDisk = "768m";

    private const string DatabaseAddress = "10.71.0.30";

    private readonly List<NetworkNamespace> _networks = [];
    private readonly List<string> _addresses = [];
    private readonly List<string> _disks = [];
    private readonly string _folder;
    private PacketSwitch? _switch;
    private CellCredentials? _credentials;
    private PostgresServer? _postgres;

    private ChaosFleet(FleetOptions options)
    {
        Options = options;
        _folder = Path.Combine(Path.GetTempPath(), string.Create(CultureInfo.InvariantCulture, $"{FolderPrefix}{Environment.ProcessId}-{Guid.NewGuid().ToString("n")[..6]}"));
        Directory.CreateDirectory(RunLogs);
        // Kernels of a spec's own are opened only where everybody may read them.
        File.SetUnixFileMode(_folder, (UnixFileMode)0x1ed); // 0755
    }

    public FleetOptions Options { get; }

    public ApiClient Api { get; private set; } = null!;

    public List<FleetProcess> Schedulers { get; } = [];

    public List<FleetProcess> Hosts { get; } = [];

    /// <summary>Null: there is one scheduler, with a journal of its own.</summary>
    public DatabaseProcess? Database { get; private set; }

    public List<WallClock> SchedulerClocks { get; } = [];

    public List<WallClock> HostClocks { get; } = [];

    public string RunLogs => Path.Combine(_folder, "runs");

    /// <summary>A kernel that idles for ever.</summary>
    public string IdleGuest => Path.Combine(_folder, "idle-guest");

    /// <summary>Null: this machine can't carry such a fleet, and why.</summary>
    public static string? Missing =>
        !NetworkNamespace.IsPossible ? "needs root and /dev/net/tun"
        : !PostgresServer.IsInstalled ? "needs PostgreSQL: run ./fleet build"
        : !File.Exists(Program) ? $"{Program} is not built: run ./fleet build"
        : null;

    public static bool HasKvm => File.Exists("/dev/kvm");

    public static string HostId(int host) => string.Create(CultureInfo.InvariantCulture, $"host-{host}");

    public HostCaps Caps => new((ulong)Options.CpusPerHost * FleetOptions.CpuRatio, (ulong)Options.MemoryMibPerHost);

    public string SchedulerData(int scheduler) => Path.Combine(_folder, string.Create(CultureInfo.InvariantCulture, $"scheduler-{scheduler}"));

    public string HostData(int host) => Path.Combine(_folder, HostId(host));

    /// <summary>Starts everything and waits until every node is healthy and every host connected.</summary>
    public static async Task<ChaosFleet> StartAsync(FleetOptions options)
    {
        CleanUp();
        var fleet = new ChaosFleet(options);
        try
        {
            await fleet.BuildAsync();
            // The first alone: a node that comes to a cell which has tokens already makes its admin's anew, and the harness has the one from before.
            fleet.Schedulers[0].Start();
            await fleet.WaitAsync("the first scheduler to be up", async () => await fleet.Api.HealthAsync(0) is { Status: 200 }, TimeSpan.FromMinutes(2));
            fleet.Schedulers.Skip(1).ToList().ForEach(scheduler => scheduler.Start());
            await fleet.WaitAsync("the schedulers to be up", fleet.AllHealthyAsync, TimeSpan.FromMinutes(2));
            await fleet.LetHostsInAsync();
            var first = options.HostsAtStart ?? options.Hosts;
            fleet.Hosts.Take(first).ToList().ForEach(host => host.Start());
            await fleet.WaitAsync("the hosts to be connected", () => fleet.AreConnectedAsync(first), TimeSpan.FromMinutes(2));
            return fleet;
        }
        catch
        {
            await fleet.DisposeAsync();
            throw;
        }
    }

    /// <summary>Sets how packets fare from one node to another; -1 as a node is every other one.</summary>
    public void SetWay(int from, int to, Way way)
    {
        for (var a = 0; a < _switch!.Count; a++)
        {
            for (var b = 0; b < _switch.Count; b++)
            {
                if (a != b && (from < 0 || a == from) && (to < 0 || b == to))
                    _switch.Set(a, b, way);
            }
        }
    }

    /// <summary>The switch's number of a process: the client is 0, schedulers and hosts follow.</summary>
    public int NodeOf(Role role, int index) => role switch
    {
        Role.Scheduler => 1 + index,
        Role.Host => 1 + Options.Schedulers + index,
        _ => 1 + Options.Schedulers + Options.Hosts,
    };

    /// <summary>The name of the scheduler that has an address, as Akka writes it; null: none has it.</summary>
    public string? SchedulerAt(string address) =>
        Enumerable.Range(0, Schedulers.Count).Where(at => address.Contains($"@{SchedulerAddress(at)}:", StringComparison.Ordinal)).Select(at => Schedulers[at].Name).FirstOrDefault();

    public ITarget TargetOf(Role role, int index) => role switch
    {
        Role.Scheduler => Schedulers[index],
        Role.Host => Hosts[index],
        _ => Database!,
    };

    public IEnumerable<(Role Role, int Index, ITarget Target)> Targets =>
    [
        .. Database is null ? Array.Empty<(Role, int, ITarget)>() : [(Role.Database, 0, Database)],
        .. Schedulers.Select((scheduler, at) => (Role.Scheduler, at, (ITarget)scheduler)),
        .. Hosts.Select((host, at) => (Role.Host, at, (ITarget)host)),
    ];

    /// <summary>A disk that is nobody else's: of a host only where hosts have some.</summary>
    public string DiskOf(Role role, int index) => role switch
    {
        Role.Database => DatabaseData,
        Role.Scheduler => SchedulerData(index),
        _ => HostData(index),
    };

    private string DatabaseData => Path.Combine(_folder, "database");

    /// <summary>Where agents dial the first scheduler; reached through <see cref="ConnectAsync"/>.</summary>
    public Uri LinkAddress => new(string.Create(CultureInfo.InvariantCulture, $"https://{SchedulerAddress(0)}:{Commands.LinkPort}"));

    /// <summary>What the client shows.</summary>
    public CellCredentials Credentials => _credentials!;

    /// <summary>A connection out of the client's network.</summary>
    public async Task<Socket> ConnectAsync(DnsEndPoint to, CancellationToken cancellation)
    {
        var socket = _networks[0].OpenSocket();
        try
        {
            await socket.ConnectAsync(new IPEndPoint(IPAddress.Parse(to.Host), to.Port), cancellation);
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    public async Task<bool> AllHealthyAsync() => await AilmentAsync() is null;

    /// <summary>What the first node that is not healthy says of itself; null: all are.</summary>
    public async Task<string?> AilmentAsync()
    {
        for (var node = 0; node < Schedulers.Count; node++)
        {
            if (await Api.HealthAsync(node) is { Status: not 200 } sick)
                return $"{Schedulers[node].Name} is not healthy: {(sick.Status == 0 ? "no answer" : sick.Body.ToString())}";
        }

        return null;
    }

    /// <summary>Whether exactly so many hosts are connected.</summary>
    public async Task<bool> AreConnectedAsync(int count) =>
        await Api.ListAsync(0, "/v1/hosts") is { } hosts && hosts.Count(host => host.GetProperty("state").GetString() == "connected") == count;

    /// <summary>microVMs of a host that have a VMM, with its epoch and process id.</summary>
    public IReadOnlyList<(string Vm, ulong Epoch, int Pid)> Vmms(int host)
    {
        var folder = Path.Combine(HostData(host), "host", "vms");
        var found = new List<(string, ulong, int)>();
        if (!Directory.Exists(folder))
            return found;
        foreach (var vm in Directory.EnumerateDirectories(folder))
        {
            try
            {
                // The boot, then the process's line of /proc/PID/stat.
                var lines = File.ReadAllLines(Path.Combine(vm, "vmm.pid"));
                if (lines.Length > 1 && int.TryParse(lines[1].Split(' ')[0], NumberStyles.None, CultureInfo.InvariantCulture, out var pid)
                    && File.Exists($"/proc/{pid}/stat") && StartOf(File.ReadAllText($"/proc/{pid}/stat")) == StartOf(lines[1]))
                {
                    found.Add((Path.GetFileName(vm), EpochOf(Path.Combine(vm, "launch.pb")), pid));
                }
            }
            catch (Exception gone) when (gone is IOException or InvalidProtocolBufferException)
            {
                // Not started yet, or gone meanwhile.
            }
        }

        return found;
    }

    public async Task WaitAsync(string what, Func<Task<bool>> condition, TimeSpan patience)
    {
        var clock = Stopwatch.StartNew();
        while (!await condition())
        {
            if (clock.Elapsed > patience)
                throw new TimeoutException($"waited {clock.Elapsed.TotalSeconds:0} s for {what}\n{string.Join('\n', Schedulers.Concat(Hosts).Select(process => $"--- {process.Name}, pid {process.Pid}\n{process.LogTail()}"))}");
            await Task.Delay(100);
        }
    }

    public async ValueTask DisposeAsync()
    {
        // A host that is stopped or cut off could not end in order.
        foreach (var (_, _, target) in Targets)
            target.Signal(Kernel.Continue);
        await Task.WhenAll(Hosts.Select(host => host.EndAsync()));
        await Task.WhenAll(Schedulers.Select(scheduler => scheduler.EndAsync()));
        foreach (var process in Schedulers.Concat(Hosts))
            process.Dispose();
        // A jailed VMM's command line does not name the folder any more.
        foreach (var vmm in Enumerable.Range(0, Hosts.Count).SelectMany(Vmms))
            Kernel.Signal(vmm.Pid, Kernel.KillNow);
        Api?.Dispose();
        _credentials?.Dispose();
        if (_postgres is not null)
            await _postgres.DisposeAsync();
        EndStrays(_folder);
        _switch?.Dispose();
        foreach (var network in _networks)
            network.Dispose();
        // VMMs that were killed hold theirs for a moment.
        foreach (var disk in _disks)
            Kernel.Run("umount", "-l", disk);
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>Under test.</summary>
    public static string Program => Path.Combine(Checkout.Artifacts, "cli", "fleet.dll");

    private async Task BuildAsync()
    {
        SmallGuest.Write(IdleGuest, SmallGuest.MarkAndIdle);
        Join("client", "10.71.0.1");
        var schedulers = Enumerable.Range(0, Options.Schedulers).Select(SchedulerAddress).ToArray();
        var networks = schedulers.Select((address, at) => Join($"scheduler-{at}", address)).ToArray();
        var hosts = Enumerable.Range(0, Options.Hosts).Select(at => Join(HostId(at), string.Create(CultureInfo.InvariantCulture, $"10.71.0.{100 + at}"))).ToArray();
        string? database = null;
        if (Options.HasDatabase)
        {
            Mount(DatabaseData, DatabaseDisk, "755");
            _postgres = await PostgresServer.StartAsync(DatabaseAddress, Path.Combine(DatabaseData, "postgres"), Join("database", DatabaseAddress).Enter);
            Database = new DatabaseProcess(_postgres);
            database = string.Create(CultureInfo.InvariantCulture, $"postgresql://fleet@{DatabaseAddress}:{_postgres.Port}/postgres");
        }

        for (var at = 0; at < Options.Schedulers; at++)
        {
            var disk = SchedulerData(at);
            Mount(disk, SchedulerDisk, "700");
            _credentials ??= new CellCredentials(disk);
            if (at > 0)
            {
                // One authority for all of them.
                Directory.CreateDirectory(Commands.SchedulerState(disk));
                Kernel.Run("cp", "-rp", Commands.Authority(SchedulerData(0)), Commands.SchedulerState(disk));
            }

            SchedulerClocks.Add(new WallClock(_folder, $"scheduler-{at}", "dotnet"));
            Schedulers.Add(Process($"scheduler-{at}", networks[at], SchedulerClocks[at], Commands.Scheduler(disk, schedulers[at], Options.Lease, database)));
        }

        for (var at = 0; at < Options.Hosts; at++)
        {
            if (Options.HasHostDisks)
                Mount(HostData(at), HostDisk, "755");
            HostClocks.Add(new WallClock(_folder, HostId(at), "dotnet"));
            Hosts.Add(Process(
                HostId(at), hosts[at], HostClocks[at],
                Commands.Host(HostData(at), HostId(at), schedulers, Options.CpusPerHost, Options.MemoryMibPerHost, RunLogs), CellCredentials.AsHost(HostToken)));
        }

        _switch = new PacketSwitch([.. _networks.Select((network, at) => (_addresses[at], network.Tun))]);
        Api = new ApiClient(ConnectAsync, schedulers, Credentials);
    }

    /// <summary>One token for all hosts, also for those that are started later, and for as long as their clocks may jump.</summary>
    private async Task LetHostsInAsync()
    {
        var made = await Api.SendAsync(0, HttpMethod.Post, "/v1/tokens", new JsonObject { ["role"] = "host", ["ttl_seconds"] = 7 * 24 * 3600 });
        await File.WriteAllTextAsync(HostToken, made.Text("secret") ?? throw new InvalidOperationException($"No token for hosts: {made}"));
    }

    private string HostToken => Path.Combine(_folder, "host.token");

    private void Mount(string folder, string size, string mode)
    {
        Directory.CreateDirectory(folder);
        Kernel.Run("mount", "-t", "tmpfs", "-o", $"size={size},mode={mode}", "fleet-chaos", folder);
        _disks.Add(folder);
    }

    /// <summary>Opens the cell's journal; of a scheduler that stands alone only while that is down.</summary>
    public DbConnection OpenJournal()
    {
        DbConnection connection = Options.HasDatabase
            ? new NpgsqlConnection(new NpgsqlConnectionStringBuilder { Host = Path.Combine(DatabaseData, "postgres"), Port = _postgres!.Port, Username = "fleet", Database = "postgres", Pooling = false }.ToString())
            : new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = Commands.SqliteJournal(SchedulerData(0)), Pooling = false }.ToString());
        connection.Open();
        return connection;
    }

    private static string SchedulerAddress(int scheduler) => string.Create(CultureInfo.InvariantCulture, $"10.71.0.{10 + scheduler}");

    private NetworkNamespace Join(string name, string address)
    {
        var network = NetworkNamespace.Create(name, address);
        _networks.Add(network);
        _addresses.Add(address);
        return network;
    }

    private FleetProcess Process(string name, NetworkNamespace network, WallClock clock, string[] arguments, string[]? before = null) => new(
        name, [.. network.Enter, .. before ?? [], "env", .. clock.Environment, "dotnet", Program, .. arguments], Path.Combine(_folder, $"{name}.out"));

    /// <summary>Of the agent's record of a launch, whose first field is what it was told to launch.</summary>
    private static ulong EpochOf(string record)
    {
        using var input = new CodedInputStream(File.ReadAllBytes(record));
        return WireFormat.GetTagFieldNumber(input.ReadTag()) == 1
            ? LaunchVm.Parser.ParseFrom(input.ReadBytes()).Epoch
            : throw new InvalidDataException($"{record} does not begin with a launch.");
    }

    private static string? StartOf(string stat) => stat.LastIndexOf(')') is var end and >= 0 ? stat[(end + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries).ElementAtOrDefault(19) : null;

    /// <summary>Ends every process that was started out of the folder: VMMs outlive their agents.</summary>
    private static void EndStrays(string folder)
    {
        foreach (var process in Directory.EnumerateDirectories("/proc").Where(path => char.IsAsciiDigit(Path.GetFileName(path)[0])))
        {
            try
            {
                if (File.ReadAllText(Path.Combine(process, "cmdline")).Contains(folder, StringComparison.Ordinal))
                    Kernel.Signal(int.Parse(Path.GetFileName(process), CultureInfo.InvariantCulture), Kernel.KillNow);
            }
            catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
            {
                // It ended meanwhile.
            }
        }
    }

    /// <summary>Takes away what harnesses left that were killed.</summary>
    private static void CleanUp()
    {
        foreach (var folder in Directory.EnumerateDirectories(Path.GetTempPath(), $"{FolderPrefix}*"))
        {
            if (int.TryParse(Path.GetFileName(folder)[FolderPrefix.Length..].Split('-')[0], NumberStyles.None, CultureInfo.InvariantCulture, out var owner) && !Directory.Exists($"/proc/{owner}"))
            {
                EndStrays(folder);
                foreach (var disk in File.ReadLines("/proc/self/mounts").Select(line => line.Split(' ')[1]).Where(mount => mount.StartsWith(folder + "/", StringComparison.Ordinal)).ToList())
                    Kernel.Run("umount", "-l", disk);
                Directory.Delete(folder, recursive: true);
            }
        }

        NetworkNamespace.CleanUp();
    }
}
