using System.Collections.Concurrent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Host.Images.Oci;
using Fleet.Host.Logs;
using Fleet.Host.Networks;
using Fleet.Host.Pressure;
using Fleet.Host.Snapshots;
using Fleet.Host.State;
using Fleet.Host.Volumes;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;
using Serilog;

namespace Fleet.Host.Agent;

/// <summary>What every microVM of an agent shares.</summary>
/// <param name="AutoDriver">What <c>auto</c> means here; empty: nothing.</param>
/// <param name="BootId">Of the kernel that runs now.</param>
/// <param name="Ending">Cancelled when the agent ends: nothing new is begun.</param>
internal sealed record MicroVmContext(
    StateDirectory State, IReadOnlyList<IVmmDriver> Drivers, string AutoDriver, string BootId, TimeProvider Clock, ILogger Log, CancellationToken Ending)
{
    // Per driver: one that waits for an image to be made keeps no other waiting.
    private readonly ConcurrentDictionary<string, SemaphoreSlim> _slots = new(StringComparer.Ordinal);

    /// <summary>How fast the output of this host's commands is taken.</summary>
    public LogPace LogPace { get; } = new(Clock);

    /// <summary>Work that outlives the actor which began it: launches, takeovers, stops, deletions.</summary>
    public PendingWork Work { get; } = new();

    /// <summary>The host's guests run under a lease.</summary>
    public bool Fenced { get; init; }

    /// <summary>What microVMs of OCI images boot; null: this host has none.</summary>
    public ImageStore? Images { get; init; }

    /// <summary>The disks that outlive microVMs; null: this host has none.</summary>
    public VolumeStore? Volumes { get; init; }

    /// <summary>The host does something about pressure by itself.</summary>
    public bool Reacts { get; init; }

    /// <summary>Of every vCPU's CPU credits; null: a vCPU may use a whole CPU for ever.</summary>
    public CreditPlan? Credits { get; init; }

    /// <summary>Gets snapshots from other hosts; null: none can be had.</summary>
    public SnapshotFetcher? Fetcher { get; init; }

    /// <summary>The networks of this host's tenants.</summary>
    public required HostNetworks Networks { get; init; }

    /// <summary>Where the kernel tells of the machine.</summary>
    public string Proc { get; init; } = "/proc";

    /// <summary>The host's.</summary>
    public CurrentLease Lease { get; } = new();

    public static string CurrentBoot() => ProcessIdentity.CurrentBoot();

    public IVmmDriver? DriverNamed(string name) => Drivers.FirstOrDefault(driver => driver.Name == name);

    /// <summary>Launches of a driver take turns: more at once than the machine has CPUs for only makes each of them slower.</summary>
    public SemaphoreSlim LaunchSlots(string driver) => _slots.GetOrAdd(driver, static _ => new SemaphoreSlim(Math.Max(2, Environment.ProcessorCount)));

    /// <summary>A record for a new launch; <c>auto</c> is settled here and for good.</summary>
    public LaunchRecord NewRecord(LaunchVm launch)
    {
        var driver = launch.Spec.Driver is "" or "auto" ? AutoDriver : launch.Spec.Driver;
        return new LaunchRecord
        {
            Launch = launch,
            Driver = driver,
            BootId = BootId,
            Report = NewReport(launch.VmId, launch.Epoch, HostVmState.Launching, driver),
        };
    }

    /// <summary>A report of now. Its sequence is above <paramref name="last"/> and, as far as the clock is right, above all before.</summary>
    public VmReport NewReport(string vmId, ulong epoch, HostVmState state, string driver = "", ulong last = 0)
    {
        var now = Clock.GetUtcNow();
        return new VmReport
        {
            VmId = vmId,
            Epoch = epoch,
            Sequence = Math.Max(last + 1, (ulong)Math.Max(0, now.ToUnixTimeMilliseconds())),
            State = state,
            Driver = driver,
            At = Timestamp.FromDateTimeOffset(now),
        };
    }
}

/// <summary>Tasks that nobody awaits one by one, so that an orderly end can wait for all of them.</summary>
internal sealed class PendingWork
{
    private readonly ConcurrentDictionary<Task, string?> _tasks = new();

    /// <summary>Counts the task until it is over.</summary>
    /// <param name="vmId">Of the microVM whose folder or VMM it makes or unmakes; null: it does neither.</param>
    public T Track<T>(T task, string? vmId = null)
        where T : Task
    {
        if (task.IsCompleted)
            return task;
        _tasks[task] = vmId;
        _ = task.ContinueWith(static (done, all) => ((ConcurrentDictionary<Task, string?>)all!).TryRemove(done, out _), _tasks, TaskScheduler.Default);
        return task;
    }

    /// <summary>Completes when what is under way on that microVM now is over; never faults.</summary>
    public async Task WhenDoneAsync(string vmId) =>
        await Task.WhenAll(_tasks.Where(pair => pair.Value == vmId).Select(pair => pair.Key).ToArray()).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);

    /// <summary>Completes when nothing is under way; never faults.</summary>
    public async Task WhenIdleAsync()
    {
        while (!_tasks.IsEmpty)
            await Task.WhenAll(_tasks.Keys).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing | ConfigureAwaitOptions.ForceYielding);
    }
}
