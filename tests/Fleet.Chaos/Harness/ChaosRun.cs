using System.Globalization;
using System.Text.Json;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Faults;
using Fleet.Chaos.Load;
using Fleet.Chaos.Network;
using Fleet.Shared.Contracts;

namespace Fleet.Chaos.Harness;

/// <summary>How long and how hard.</summary>
internal sealed record ChaosOptions
{
    public required ulong Seed { get; init; }

    public required TimeSpan Length { get; init; }

    public FleetOptions Fleet { get; init; } = new() { Lease = TimeSpan.FromSeconds(6), MemoryMibPerHost = 640 };

    public double RequestsPerSecond { get; init; } = 5;

    public int Population { get; init; } = 40;

    public TimeSpan Pace { get; init; } = TimeSpan.FromSeconds(6);

    /// <summary>These and no others; null: as the seed says.</summary>
    public IReadOnlyList<Fault>? Faults { get; init; }
}

/// <summary>What a run came to.</summary>
internal sealed record ChaosReport
{
    public required ulong Seed { get; init; }

    public required Verdict Verdict { get; init; }

    public required IReadOnlyDictionary<FaultKind, int> Faults { get; init; }

    public required int MicroVms { get; init; }

    /// <summary>Tries of requests that no node answered.</summary>
    public required int Unanswered { get; init; }

    /// <summary>Tries that a node answered, by HTTP status.</summary>
    public required IReadOnlyDictionary<int, int> Answers { get; init; }

    /// <summary>Processes that ended by themselves, with the last lines of their logs; those that are no known end are violations.</summary>
    public required IReadOnlyList<Crash> Crashes { get; init; }

    public int FaultCount => Faults.Values.Sum();

    /// <summary>Nearest rank; 0 when nothing was lost.</summary>
    public double RecoverySeconds(double quantile)
    {
        var sorted = Verdict.Recoveries.Order().ToList();
        return sorted.Count == 0 ? 0 : sorted[Math.Clamp((int)Math.Ceiling(quantile * sorted.Count) - 1, 0, sorted.Count - 1)].TotalSeconds;
    }
}

/// <summary>One run: a fleet, a load, faults by a seed; then everything is healed, comes to rest, is collected and checked.</summary>
internal static class ChaosRun
{
    /// <summary>The longest pause of anything that heals the fleet (orders and audits are repeated every 10 to 15 s), several times.</summary>
    private static readonly TimeSpan RestBound = TimeSpan.FromMinutes(3);

    /// <summary>Lines of a process' log by which its end is known: after the word that says why, a node without its database says much more.</summary>
    private const int LastWords = 2_000;

    /// <summary>How long nothing may change before it counts as rest: longer than the audit of reservations.</summary>
    private static readonly TimeSpan Calm = TimeSpan.FromSeconds(16);

    /// <param name="options">What to do.</param>
    /// <param name="tell">Hears a line for each thing that happens.</param>
    /// <param name="cancellation">Ends it unchecked, with nothing of it left.</param>
    public static async Task<ChaosReport> RunAsync(ChaosOptions options, Action<string> tell, CancellationToken cancellation = default)
    {
        tell(string.Create(CultureInfo.InvariantCulture, $"seed {options.Seed}"));
        var faults = FaultsOf(options);
        await using var fleet = await ChaosFleet.StartAsync(options.Fleet with { HasHostDisks = true });
        var injector = new Injector(fleet, tell);
        var load = new ClientLoad(fleet.Api, new LoadOptions(options.RequestsPerSecond, options.Population, ChaosFleet.HasKvm ? fleet.IdleGuest : null), options.Seed);
        var crashes = new List<Crash>();
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        using var watched = new CancellationTokenSource();
        var lookout = new Lookout(fleet);
        // One that stands alone carries everything, and says as well since when it counts.
        var looking = lookout.RunAsync(over.Token);
        var watching = WatchAsync(fleet, injector, crashes, tell, watched.Token);
        var loading = load.RunAsync(over.Token);
        var breaking = injector.RunAsync(faults, over.Token);
        await Task.Delay(options.Length, cancellation).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await over.CancelAsync();
        await Task.WhenAll(loading, breaking, looking);
        tell("all is healed");
        if (cancellation.IsCancellationRequested)
        {
            await watched.CancelAsync();
            await watching;
            cancellation.ThrowIfCancellationRequested();
        }
        await load.FinishAsync(TimeSpan.FromMinutes(1));
        var unrest = await RestAsync(fleet);
        tell(unrest ?? "all is at rest");
        await watched.CancelAsync();
        await watching;
        History history;
        try
        {
            history = (await CollectAsync(fleet, injector, lookout, load, options.Fleet)) with { Unrest = unrest, Crashes = crashes };
        }
        catch (InvalidOperationException)
        {
            tell($"what there is is kept in {Keep(fleet, options.Seed)}");
            throw;
        }
        var verdict = Checker.Check(history);
        if (verdict.Violations.Count > 0)
        {
            var kept = Keep(fleet, options.Seed);
            KeptHistory.Write(kept, history);
            tell($"what was collected is kept in {kept}");
        }

        return new ChaosReport
        {
            Seed = options.Seed,
            Verdict = verdict,
            Faults = injector.Done,
            MicroVms = load.Created,
            Unanswered = load.Log.Count(request => request.Status == 0),
            Answers = load.Log.Where(request => request.Status > 0).CountBy(request => request.Status).ToDictionary(),
            Crashes = crashes,
        };
    }

    /// <summary>What will be broken, and when.</summary>
    public static IReadOnlyList<Fault> FaultsOf(ChaosOptions options) => options.Faults ?? Schedule.Of(options.Seed, new ScheduleOptions
    {
        Schedulers = options.Fleet.Schedulers,
        Hosts = options.Fleet.Hosts,
        Database = options.Fleet.HasDatabase,
        Length = options.Length,
        Lease = options.Fleet.Lease,
        Pace = options.Pace,
    });

    /// <summary>Starts again what ended by itself, as a supervisor would.</summary>
    private static async Task WatchAsync(ChaosFleet fleet, Injector injector, List<Crash> crashes, Action<string> tell, CancellationToken cancellation)
    {
        while (!cancellation.IsCancellationRequested)
        {
            foreach (var (role, index, target) in fleet.Targets.Where(target => target.Target.HasFailed))
            {
                var from = Kernel.BootMs;
                tell($"{target.Name} ended by itself:\n{target.LogTail(5)}");
                crashes.Add(new(target.Name, role == Role.Scheduler, from, target.LogTail(LastWords)));
                await Task.Delay(1_000, CancellationToken.None);
                await target.StartAsync();
                _ = injector.NoteCrashAsync(role, index, from);
            }

            try
            {
                await Task.Delay(200, cancellation);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }
    }

    /// <summary>Null: everybody is there, no microVM is on its way anywhere, and that has been so for a while. Else: what is not so.</summary>
    private static async Task<string?> RestAsync(ChaosFleet fleet)
    {
        var until = Kernel.BootMs + (long)RestBound.TotalMilliseconds;
        string? before = null;
        var unrest = "";
        for (var since = Kernel.BootMs; Kernel.BootMs < until; await Task.Delay(500))
        {
            string? now = null;
            if (await fleet.AilmentAsync() is { } ailment)
                unrest = ailment;
            else if (!await fleet.AreConnectedAsync(fleet.Options.Hosts))
                unrest = "not every host is connected";
            else if (await fleet.Api.ListAsync(0, "/v1/vms") is not { } vms)
                unrest = "microVMs can't be listed";
            else if (vms.Where(vm => !IsAtRest(vm)).ToList() is { Count: > 0 } restless)
                unrest = $"on their way: {string.Join(", ", restless.Take(5).Select(vm => $"{vm.GetProperty("id")} {vm.GetProperty("state")}"))}";
            else
            {
                now = string.Join(' ', vms.Select(vm => $"{vm.GetProperty("id")}.{vm.GetProperty("version")}"));
                unrest = "microVMs change";
            }

            if (now is null || now != before)
                (before, since) = (now, Kernel.BootMs);
            else if (Kernel.BootMs - since >= Calm.TotalMilliseconds)
                return null;
        }

        return string.Create(CultureInfo.InvariantCulture, $"not at rest {RestBound.TotalSeconds:0} s after the last fault: {unrest}");
    }

    private static bool IsAtRest(JsonElement vm) =>
        vm.GetProperty("state").GetString() is "running" or "unplaced" or "stopped" or "failed" or "suspended"
        && vm.GetProperty("restart_at").ValueKind == JsonValueKind.Null;

    private static async Task<History> CollectAsync(ChaosFleet fleet, Injector injector, Lookout lookout, ClientLoad load, FleetOptions options)
    {
        var vms = await fleet.Api.ListAsync(0, "/v1/vms") ?? throw new InvalidOperationException("The control plane does not list its microVMs after everything was healed.");
        var end = Kernel.BootMs;
        var runs = RunLog.ReadFolder(fleet.RunLogs);
        // The hosts go on: their leases last longer than this.
        await Task.WhenAll(fleet.Schedulers.Select(scheduler => scheduler.EndAsync()));
        IReadOnlyList<StoredEvent> journal;
        using (var connection = fleet.OpenJournal())
            journal = StoredJournal.Read(connection, Kernel.BootMs - DateTimeOffset.UtcNow.ToUnixTimeMilliseconds());
        fleet.Schedulers.ForEach(scheduler => scheduler.Start());
        return new History
        {
            Runs = runs,
            Requests = [.. load.Log.OrderBy(request => request.SentMs)],
            Journal = journal,
            Final = [.. vms.Select(vm => new FinalVm(
                vm.GetProperty("id").GetString()!,
                Enum.Parse<VmState>(vm.GetProperty("state").GetString()!, ignoreCase: true),
                vm.GetProperty("reason") is { ValueKind: JsonValueKind.Object } reason ? reason.GetProperty("code").GetString() : null,
                vm.GetProperty("host").GetString(),
                vm.GetProperty("epoch").GetUInt64()))],
            Caps = Enumerable.Range(0, fleet.Options.Hosts).ToDictionary(ChaosFleet.HostId, _ => fleet.Caps),
            Silences = injector.Silences,
            Strikes = injector.Strikes,
            Outages = injector.Outages,
            Sightings = lookout.Sightings,
            Recounts = lookout.Recounts,
            Broken = injector.Broken,
            Stalls = injector.Stalls,
            OfSeveral = options.Schedulers > 1,
            Lease = options.Lease,
            EndMs = end,
        };
    }

    /// <summary>Run logs, journals and logs, for whoever looks for the reason of a violation.</summary>
    private static string Keep(ChaosFleet fleet, ulong seed)
    {
        var folder = Directory.CreateTempSubdirectory(string.Create(CultureInfo.InvariantCulture, $"fleet-chaos-kept-{seed}-")).FullName;
        Kernel.Run("cp", "-r", fleet.RunLogs, folder);
        for (var i = 0; i < fleet.Schedulers.Count; i++)
        {
            Kernel.Run("cp", "-r", Commands.SchedulerState(fleet.SchedulerData(i)), Path.Combine(folder, $"scheduler-{i}"));
            Kernel.Run("cp", "-r", Path.Combine(fleet.SchedulerData(i), "log"), Path.Combine(folder, $"scheduler-{i}-log"));
        }

        for (var i = 0; i < fleet.Hosts.Count; i++)
            Kernel.Run("cp", "-r", Path.Combine(fleet.HostData(i), "log"), Path.Combine(folder, $"{ChaosFleet.HostId(i)}-log"));
        return folder;
    }
}
