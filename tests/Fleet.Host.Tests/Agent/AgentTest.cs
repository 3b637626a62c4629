using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.Networks;
using Fleet.Host.Pressure;
using Fleet.Host.State;
using Fleet.Host.Tests.Link;
using Fleet.Shared.Contracts;
using Serilog;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>A whole agent on a state directory of its own, against a control plane that the test plays, over real gRPC.</summary>
public abstract class AgentTest : IAsyncLifetime
{
    protected const string Id = "vm-01jd8mbr4v3s6q8k2n0x5t7w9z";

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-agent-").FullName;

    /// <summary>A folder for whatever else the test has, that everybody may look into.</summary>
    private protected string NewFolder(string name)
    {
        const UnixFileMode everybody = (UnixFileMode)0x1ed;
        File.SetUnixFileMode(_folder, everybody);
        return Directory.CreateDirectory(Path.Combine(_folder, name), everybody).FullName;
    }

    protected string Root => Path.Combine(_folder, "state");

    private protected LogLines Lines { get; } = new();

    private protected FakeScheduler Scheduler { get; private set; } = null!;

    public async Task InitializeAsync() => Scheduler = await FakeScheduler.StartAsync();

    public async Task DisposeAsync()
    {
        await Scheduler.DisposeAsync();
        Directory.Delete(_folder, true);
    }

    protected Task<HostAgent> StartAsync(IVmmDriver? driver = null, TimeProvider? clock = null, string? root = null, string id = "rack1", string proc = "/proc", bool reacts = true, CreditPlan? credits = null, System.Net.IPEndPoint? transfer = null, NetworkOptions? networks = null) => HostAgent.StartAsync(
        new HostAgentOptions
        {
            HostId = id,
            StateDirectory = root ?? Root,
            SchedulerAddresses = [Scheduler.Address],
            Credentials = Scheduler.Authority.Credentials(id),
            Drivers = [driver ?? new SimulatedDriver(clock ?? TimeProvider.System)],
            Clock = clock ?? TimeProvider.System,
            Log = Lines.Log,
            Proc = proc,
            Reacts = reacts,
            Credits = credits,
            Transfer = transfer,
            Networks = networks ?? new NetworkOptions(),
        },
        default);

    private protected HostNetworks Networks(ILogger log) => new(new NetworkOptions(), "rack1", Root, log);

    /// <summary>What a kill -9 at this moment would leave: the state directory as it is now, for another agent.</summary>
    protected string Snapshot()
    {
        var copy = Path.Combine(_folder, $"snapshot-{Guid.NewGuid():n}");
        Directory.CreateDirectory(copy);
        foreach (var file in Directory.GetFiles(Root, "*", SearchOption.AllDirectories).Where(file => !file.EndsWith("agent.lock", StringComparison.Ordinal)))
        {
            var to = file.Replace(Root, copy, StringComparison.Ordinal);
            Directory.CreateDirectory(Path.GetDirectoryName(to)!);
            if (file.EndsWith(".new", StringComparison.Ordinal))
            {
                // In the middle of being written: a kill may leave any part of it.
                File.WriteAllText(to, "cut sho");
                continue;
            }

            if (file.EndsWith(".lock", StringComparison.Ordinal))
            {
                // Its holder's end lets it go, and leaves the file.
                File.WriteAllText(to, "");
                continue;
            }

            try
            {
                File.Copy(file, to);
            }
            catch (Exception moved) when (moved is FileNotFoundException or DirectoryNotFoundException)
            {
                // Renamed or removed since it was listed: a kill would have found it so too.
            }
        }

        return copy;
    }

    protected static SchedulerMessage Launch(SimulatedGuest? script = null, ulong epoch = 1, string id = Id) => new()
    {
        Launch = new LaunchVm
        {
            VmId = id,
            Epoch = epoch,
            Spec = new VmSpec { Name = "one", Cpus = 1, MemoryMib = 64, Driver = "simulated", Simulated = script ?? new SimulatedGuest() },
        },
    };

    protected static SchedulerMessage Stop(ulong epoch = 1, uint graceMs = 0) => new() { Stop = new StopVm { VmId = Id, Epoch = epoch, GraceMs = graceMs } };

    protected static SchedulerMessage Remove(ulong epoch = 1) => new() { Remove = new RemoveVm { VmId = Id, Epoch = epoch } };

    private protected static LaunchRecord Record(HostVmState state, string? bootId = null) => new()
    {
        Launch = Launch().Launch,
        Driver = "simulated",
        BootId = bootId ?? MicroVmContext.CurrentBoot(),
        Report = new VmReport { VmId = Id, Epoch = 1, Sequence = 1, State = state },
    };

    private protected void Write(LaunchRecord record)
    {
        using var state = StateDirectory.Open(Root, Lines.Log);
        state.Write(record, durable: true);
    }

    /// <summary>An id that differs by the number.</summary>
    protected static string IdOf(int number) => $"vm-01jd8mbr4v3s6q8k2n0x5t{number:0000}";

    protected static async Task UntilAsync(string what, Func<bool> condition)
    {
        for (var began = TimeProvider.System.GetTimestamp(); !condition(); await Task.Delay(10))
            Assert.True(TimeProvider.System.GetElapsedTime(began) < TimeSpan.FromSeconds(20), $"waited in vain for {what}");
    }
}
