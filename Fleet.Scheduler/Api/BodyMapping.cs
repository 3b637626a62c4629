using System.Globalization;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Projection;
using Fleet.Scheduler.Vms;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Fleet.Shared.Vms;
using Google.Protobuf.Collections;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Api;

/// <summary>Between records and the shapes of the API.</summary>
internal static class BodyMapping
{
    /// <summary>The complete spec of a body: defaults filled in, rules not yet checked.</summary>
    /// <exception cref="RequestRefused"><c>missing_field</c>, or <c>invalid_field</c> for a number that its type can't hold.</exception>
    public static VmSpec ToSpec(CreateVmBody body, string nameIfNone)
    {
        var ownKernel = body.Boot is not null || body.Driver == "simulated";
        var spec = new VmSpec
        {
            Name = body.Name ?? nameIfNone,
            Cpus = (uint)InRange("cpus", body.Cpus ?? 1, 1, VmLimits.MaxCpus),
            MemoryMib = (uint)InRange("memory_mib", body.MemoryMib ?? (ownKernel ? VmLimits.DefaultMemoryMib : VmLimits.DefaultImageMemoryMib),
                VmLimits.MinMemoryMib, VmLimits.MaxMemoryMib),
            Driver = body.Driver ?? "auto",
            BootTimeoutSeconds = (uint)InRange("boot_timeout_seconds",
                body.BootTimeoutSeconds ?? (body.Boot is not null ? 0 : VmLimits.DefaultBootTimeoutSeconds), 0, VmLimits.MaxBootTimeoutSeconds),
            Restart = body.Restart ?? RestartPolicy.Never,
            Fencing = body.Fencing ?? FencingPolicy.Strict,
            Terminal = body.Terminal ?? false,
            Priority = body.Priority ?? PriorityClass.Normal,
            Host = body.Host ?? "",
            Tenant = body.Tenant ?? "",
            // In the one way to write it: hosts tell by it what they have. What is no name the rules refuse.
            Image = body.Image is { } image && ImageReference.TryParse(image, out var reference, out _) ? reference.ToString() : body.Image ?? "",
            Network = body.Network ?? NetworkRules.None,
            DiskMib = (ulong)InRange("disk_mib", body.DiskMib ?? 0, 0, VmLimits.MaxVolumeMib),
            NetworkMbit = (uint)InRange("network_mbit", body.NetworkMbit ?? 0, 0, VmLimits.MaxNetworkMbit),
            Iops = (ulong)InRange("iops", body.Iops ?? 0, 0, VmLimits.MaxIops),
            Architecture = body.Architecture ?? "",
            MinKernel = body.MinKernel ?? "",
            CpuTemplate = body.CpuTemplate ?? "",
            RefuseWaiting = !(body.Queue ?? true),
        };
        if (body.StopGraceSeconds is { } grace)
            spec.StopGraceSeconds = (uint)InRange("stop_grace_seconds", grace, 0, VmLimits.MaxGraceSeconds);
        spec.Command.Add(body.Command ?? []);
        foreach (var (name, value) in body.Env ?? Empty)
            spec.Env.Add(name, value);
        foreach (var (key, value) in body.Labels ?? Empty)
            spec.Labels.Add(key, value);
        foreach (var (key, value) in body.HostLabels ?? Empty)
            spec.HostLabels.Add(key, value);
        spec.Zones.Add(body.Zones ?? []);
        spec.Placement = ToWishes(body.Placement);
        spec.Health = ToHealth(body.Health);
        spec.Volumes.AddRange((body.Volumes ?? []).Select((volume, i) => new VolumeMount
        {
            Name = volume.Name ?? throw new RequestRefused(ErrorCodes.MissingField, "A volume needs name.", $"volumes[{i}].name"),
            Path = volume.Path ?? "",
            SizeMib = (ulong)InRange($"volumes[{i}].size_mib", volume.SizeMib ?? VmLimits.DefaultVolumeMib, VmLimits.MinVolumeMib, VmLimits.MaxVolumeMib),
        }));
        if (body.Host is "")
            throw new RequestRefused(ErrorCodes.InvalidField, "host is empty; leave it out to allow every host.", "host");
        if (body.Boot is { } boot)
        {
            spec.Boot = new BootSource
            {
                KernelPath = boot.KernelPath ?? throw new RequestRefused(ErrorCodes.MissingField, "boot needs kernel_path, an absolute path on the host.", "boot.kernel_path"),
                InitrdPath = boot.InitrdPath ?? "",
                BootArgs = boot.BootArgs ?? "",
            };
        }
        if (body.Simulated is { } simulated)
        {
            spec.Simulated = new SimulatedGuest
            {
                BootMs = (uint)InRange("simulated.boot_ms", simulated.BootMs ?? 0, 0, VmLimits.MaxSimulatedMs),
                RunMs = (uint)InRange("simulated.run_ms", simulated.RunMs ?? 0, 0, VmLimits.MaxSimulatedMs),
                ExitStatus = (int)InRange("simulated.exit_status", simulated.ExitStatus ?? 0, 0, 255),
                Fault = simulated.Fault ?? "",
                StepMs = (uint)InRange("simulated.step_ms", simulated.StepMs ?? 0, 0, VmLimits.MaxSimulatedMs),
            };
            spec.Simulated.CpuPercent.AddRange(ToCurve("simulated.cpu_percent", simulated.CpuPercent));
            spec.Simulated.MemoryPercent.AddRange(ToCurve("simulated.memory_percent", simulated.MemoryPercent));
        }
        spec.Ports.Add((body.Ports ?? []).Select(ToPort));
        foreach (var (name, limit) in body.RateLimits ?? new Dictionary<string, RateLimitBody>())
            spec.RateLimits.Add(name, ToLimit($"rate_limits.{name}", limit));
        return spec;
    }

    private static PublishedPort ToPort(PortBody port, int i)
    {
        var host = InRange($"ports[{i}].host", port.Host ?? throw new RequestRefused(ErrorCodes.MissingField, "A port needs host, its number on the host.", $"ports[{i}].host"), 1, ushort.MaxValue);
        return new() { Host = (uint)host, Guest = (uint)InRange($"ports[{i}].guest", port.Guest ?? host, 1, ushort.MaxValue), Protocol = port.Protocol ?? NetworkRules.Tcp };
    }

    private static HealthCheck? ToHealth(HealthCheckBody? body) => body is null ? null : new HealthCheck
    {
        Command = { body.Command ?? [] },
        Port = (uint)InRange("health.port", body.Port ?? 0, 0, ushort.MaxValue),
        HttpPath = body.HttpPath ?? "",
        IntervalSeconds = (uint)InRange("health.interval_seconds", body.IntervalSeconds ?? HealthRules.DefaultInterval, 1, HealthRules.MaxSeconds),
        TimeoutSeconds = (uint)InRange("health.timeout_seconds", body.TimeoutSeconds ?? HealthRules.DefaultTimeout, 1, HealthRules.MaxTimeoutSeconds),
        Failures = (uint)InRange("health.failures", body.Failures ?? HealthRules.DefaultFailures, 1, HealthRules.MaxFailures),
        StartPeriodSeconds = (uint)InRange("health.start_period_seconds", body.StartPeriodSeconds ?? 0, 0, HealthRules.MaxSeconds),
    };

    private static HealthCheckBody? OfHealth(HealthCheck? health) => health is null ? null : new HealthCheckBody
    {
        Command = health.Command.Count > 0 ? health.Command : null, Port = health.Port == 0 ? null : health.Port, HttpPath = OrNull(health.HttpPath),
        IntervalSeconds = health.IntervalSeconds, TimeoutSeconds = health.TimeoutSeconds, Failures = health.Failures, StartPeriodSeconds = health.StartPeriodSeconds,
    };

    private static PlacementWishes? ToWishes(PlacementBody? body)
    {
        if (body is null)
            return null;
        var wishes = new PlacementWishes { Groups = { body.Groups ?? [] } };
        wishes.Affinity.AddRange((body.Affinity ?? []).Select((rule, i) => new Affinity
        {
            Group = rule.Group ?? (rule.Vm is null ? throw NoGroup($"placement.affinity[{i}].group") : ""),
            Vm = rule.Vm ?? "",
            Within = rule.Within ?? PlacementWishRules.Host,
            Apart = rule.Apart ?? false,
            Soft = !(rule.Hard ?? true),
        }));
        wishes.Spread.AddRange((body.Spread ?? []).Select((rule, i) => new GroupSpread
        {
            Group = rule.Group ?? throw NoGroup($"placement.spread[{i}].group"),
            Over = rule.Over ?? PlacementWishRules.Zone,
            MostAhead = (uint)InRange($"placement.spread[{i}].most_ahead", rule.MostAhead ?? 1, 1, VmLimits.MaxSpreadAhead),
            Soft = !(rule.Hard ?? true),
        }));
        return wishes;
    }

    private static RequestRefused NoGroup(string field) => new(ErrorCodes.MissingField, "A rule needs group, the group that it is about.", field);

    private static PlacementBody? OfWishes(PlacementWishes? wishes) => wishes is null ? null : new PlacementBody
    {
        Groups = wishes.Groups,
        Affinity = [.. wishes.Affinity.Select(rule => new AffinityBody { Group = OrNull(rule.Group), Vm = OrNull(rule.Vm), Within = rule.Within, Apart = rule.Apart, Hard = !rule.Soft })],
        Spread = [.. wishes.Spread.Select(rule => new SpreadBody { Group = rule.Group, Over = rule.Over, MostAhead = rule.MostAhead, Hard = !rule.Soft })],
    };

    /// <summary>A complete limit, whose rules are not yet checked.</summary>
    /// <exception cref="RequestRefused"><c>missing_field</c>, or <c>invalid_field</c> for a number below zero.</exception>
    public static RateLimit ToLimit(string field, RateLimitBody body) => new()
    {
        Bandwidth = ToBucket(Join(field, "bandwidth"), body.Bandwidth),
        Ops = ToBucket(Join(field, "ops"), body.Ops),
    };

    private static TokenBucket? ToBucket(string field, TokenBucketBody? body) => body is null ? null : new TokenBucket
    {
        Size = (ulong)InRange($"{field}.size", body.Size ?? throw Missing($"{field}.size"), 1, VmLimits.MaxBucketSize),
        RefillTimeMs = (ulong)InRange($"{field}.refill_time_ms", body.RefillTimeMs ?? throw Missing($"{field}.refill_time_ms"), 1, VmLimits.MaxRefillMs),
        OneTimeBurst = (ulong)InRange($"{field}.one_time_burst", body.OneTimeBurst ?? 0, 0, VmLimits.MaxBucketSize),
    };

    private static RequestRefused Missing(string field) => new(ErrorCodes.MissingField, $"A bucket needs {field[(field.LastIndexOf('.') + 1)..]}.", field);

    private static string Join(string field, string member) => field.Length == 0 ? member : $"{field}.{member}";

    /// <summary>What is wanted of each limiter beside what it does.</summary>
    public static RateLimitersBody ToBody(VmRecord vm, IReadOnlyList<LimiterFigure> figures)
    {
        var names = vm.Spec.RateLimits.Keys.Union(figures.Select(figure => figure.Name)).Order(StringComparer.Ordinal);
        return new([.. names.Select(name =>
        {
            var wanted = vm.Spec.RateLimits.TryGetValue(name, out var limit) ? limit : null;
            var figure = figures.FirstOrDefault(one => one.Name == name);
            return new RateLimiterBody(
                name,
                ToBody(wanted),
                vm.State == VmState.Running && vm.LimitsInForce == vm.LimitsRevision && (figure is null || Equals(figure.InForce, wanted)),
                figure is null ? null : new(ToBody(figure.InForce), figure.PassedOps, figure.PassedBytes, figure.ThrottledCount, figure.ThrottledUs));
        })]);
    }

    private static RateLimitBody? ToBody(RateLimit? limit) =>
        limit is null ? null : new RateLimitBody { Bandwidth = ToBody(limit.Bandwidth), Ops = ToBody(limit.Ops) };

    private static TokenBucketBody? ToBody(TokenBucket? bucket) => bucket is null
        ? null
        : new TokenBucketBody { Size = (long)bucket.Size, RefillTimeMs = (long)bucket.RefillTimeMs, OneTimeBurst = (long)bucket.OneTimeBurst };

    public static VmBody ToBody(VmRecord vm) => ToBody(vm, (VmUse?)null);

    /// <param name="vm">The microVM.</param>
    /// <param name="use">What it used; null: that is not told.</param>
    public static VmBody ToBody(VmRecord vm, VmUse? use) => new(
        vm.Id,
        vm.Spec.Name,
        OrNull(vm.Spec.Tenant),
        Name(vm.State),
        vm.Reason is { } reason ? new ReasonBody(reason.Code, reason.Message) : null,
        vm.Exit?.Status,
        OrNull(vm.Host),
        vm.Epoch,
        OrNull(vm.Driver),
        vm.VmmPid == 0 ? null : vm.VmmPid,
        vm.Addresses is { } addresses ? new AddressesBody(addresses.Ipv4, addresses.Ipv6) : null,
        Text(vm.CreatedAt),
        Text(vm.ChangedAt),
        vm.Version,
        vm.Restarts,
        RestartRules.RestartAt(vm) is { } again ? Text(Timestamp.FromDateTimeOffset(again)) : null,
        vm.Spec.Gang is { } gang ? new(OrNull(gang.Id) ?? vm.Id, gang.Name, gang.Size, gang.Index) : null,
        vm.Log is { } log ? new(log.First, log.End, log.LostBytes) : null,
        use is null ? null : new(use.CpuMillis / 1000.0, use.MemoryKib / 1024, use.Credits is { } credits ? new(credits.BalanceMs / 1000.0, use.VcpusHeldBack) : null, use.Guest is { } said ? ToBody(said) : null),
        vm.Arrived is { } moved ? new(moved.From, moved.WithMemory, moved.Reason is { } why ? new ReasonBody(why.Code, why.Message) : null) : null,
        new VmSpecBody(
            vm.Spec.Name, vm.Spec.Cpus, vm.Spec.MemoryMib, vm.Spec.Command, Sorted(vm.Spec.Env), vm.Spec.Driver,
            vm.Spec.Boot is { } boot
                ? new BootBody { KernelPath = boot.KernelPath, InitrdPath = OrNull(boot.InitrdPath), BootArgs = OrNull(boot.BootArgs) }
                : null,
            OrNull(vm.Spec.Image),
            vm.Spec.BootTimeoutSeconds, OrNull(vm.Spec.Restart) ?? RestartPolicy.Never, OrNull(vm.Spec.Fencing) ?? FencingPolicy.Strict, vm.Spec.Terminal, VmLimits.GraceSecondsOf(vm.Spec), OfHealth(vm.Spec.Health), Sorted(vm.Spec.Labels), OrNull(vm.Spec.Host),
            Sorted(vm.Spec.HostLabels), vm.Spec.Zones, OrNull(vm.Spec.Priority) ?? PriorityClass.Normal,
            vm.Spec.DiskMib, vm.Spec.NetworkMbit, vm.Spec.Iops, OrNull(vm.Spec.Architecture), OrNull(vm.Spec.MinKernel), OrNull(vm.Spec.CpuTemplate), !vm.Spec.RefuseWaiting, OfWishes(vm.Spec.Placement),
            [.. vm.Spec.Volumes.Select(volume => new VolumeMountBody { Name = volume.Name, Path = OrNull(volume.Path), SizeMib = (long)volume.SizeMib })],
            vm.Spec.Simulated is { } guest
                ? new SimulatedBody { BootMs = guest.BootMs, RunMs = guest.RunMs, ExitStatus = guest.ExitStatus, Fault = OrNull(guest.Fault), CpuPercent = OfCurve(guest.CpuPercent), MemoryPercent = OfCurve(guest.MemoryPercent), StepMs = guest.StepMs == 0 ? null : guest.StepMs }
                : null,
            OrNull(vm.Spec.Network) ?? NetworkRules.None, [.. vm.Spec.Ports.Select(port => new PortBody { Host = port.Host, Guest = port.Guest, Protocol = port.Protocol })],
            new SortedDictionary<string, RateLimitBody>(vm.Spec.RateLimits.ToDictionary(limit => limit.Key, limit => ToBody(limit.Value)!), StringComparer.Ordinal)));

    private static GuestBody ToBody(GuestFigures said) => new(
        said.MemoryKib / 1024, said.AvailableKib / 1024, [said.Load1 / 100.0, said.Load5 / 100.0, said.Load15 / 100.0], said.Tasks,
        said.Health == 0 ? null : new(((HealthState)said.Health).ToString().ToLowerInvariant(), said.HealthFailures));

    public static VolumeBody ToBody(VolumeRecord volume) => new(
        volume.Name, OrNull(volume.Tenant), Name(volume.State), volume.SizeMib, volume.Host, OrNull(volume.VmId), volume.Snapshot, OrNull(volume.CopyOf), Text(volume.CreatedAt),
        volume.Reason is { } reason ? new ReasonBody(reason.Code, reason.Message) : null);

    public static TokenBody ToBody(TokenRecord token) => new(
        token.Id, Name(token.Role), OrNull(token.Tenant), OrNull(token.Host), token.Note, Text(token.CreatedAt), OrNull(token.CreatedBy),
        token.ExpiresAt is null ? null : Text(token.ExpiresAt), token.RevokedAt is null ? null : Text(token.RevokedAt));

    public static HostBody ToBody(HostRecord host)
    {
        var inventory = host.Inventory ?? new Inventory();
        return new(
            host.Id, Name(host.State), host.Cordoned,
            host.Quarantine is { } quarantine
                ? new(new(quarantine.Reason.Code, quarantine.Reason.Message), Text(quarantine.Since), Text(quarantine.RetryAt))
                : null,
            host.Drain is { } drain
                ? new(
                    Text(drain.Since), Text(drain.Deadline), drain.Vms, host.Vms, drain.DoneAt is null ? null : Text(drain.DoneAt),
                    [.. drain.Staying.Select(one => new DrainStayBody(one.VmId, new(one.Reason.Code, one.Reason.Message)))])
                : null,
            host.Pressure is { } pressure ? new(Name(pressure.Cpu), Name(pressure.Memory), pressure.Why) : null,
            inventory.Cpus, inventory.MemoryMib,
            inventory.HasDiskMib ? inventory.DiskMib : null, inventory.HasNetworkMbit ? (uint)inventory.NetworkMbit : null, inventory.HasIops ? inventory.Iops : null,
            host.ReservedCpus, host.ReservedMemoryMib, host.ReservedOther?.DiskMib ?? 0, host.ReservedOther?.NetworkMbit ?? 0, host.ReservedOther?.Iops ?? 0, host.Vms,
            [.. inventory.Drivers.Select(d => new DriverBody(d.Name, d.Usable, d.StockKernels, d.Detail))],
            OrNull(inventory.AutoDriver), inventory.Kernel, inventory.Architecture, inventory.CpuTemplates, host.AgentVersion,
            host.ConnectedAt is null ? null : Text(host.ConnectedAt),
            host.SilentSince is null ? null : Text(host.SilentSince), host.GivenUpInMs == 0 ? null : host.GivenUpInMs / 1000.0, Sorted(inventory.Labels),
            host.Usage is { } usage ? ToBody(usage) : null);
    }

    /// <summary>As lists have it: what it may promise is known of every host, what is used only by its actor.</summary>
    public static HostBody ToBody(HostRecord host, CapacityCaps caps)
    {
        var other = caps.Other(host.Inventory);
        return ToBody(host) with
        {
            Usage = new(caps.Cpus(host.Inventory), caps.MemoryMib(host.Inventory), Disk(other), Network(other), Iops(other), null, null, null, null, null, null, null, null),
        };
    }

    private static ulong? Disk(OtherResources? other) => other is { HasDiskMib: true } ? other.DiskMib : null;

    private static ulong? Network(OtherResources? other) => other is { HasNetworkMbit: true } ? other.NetworkMbit : null;

    private static ulong? Iops(OtherResources? other) => other is { HasIops: true } ? other.Iops : null;

    private static HostUsageBody ToBody(HostUsage usage) => new(
        usage.CapCpus, usage.CapMemoryMib, Disk(usage.CapOther), Network(usage.CapOther), Iops(usage.CapOther), usage.VolumesMib, usage.SavedMib, usage.Used?.CpuMillis / 1000.0, usage.Used?.MemoryKib / 1024,
        usage.Used?.StealPermille / 1000.0, usage.Used?.CpuWaitMillis / 1000.0,
        usage.Used?.Stalls is { } stalls
            ? new(stalls.CpuSome / 1000.0, stalls.MemorySome / 1000.0, stalls.MemoryFull / 1000.0, stalls.IoSome / 1000.0, stalls.IoFull / 1000.0)
            : null,
        usage.Forecast is { } forecast
            ? new(
                Rounded(forecast.PeakCpus), Rounded(forecast.RoomCpus), Rounded(forecast.PeakMemoryMib), Rounded(forecast.RoomMemoryMib), forecast.KnownVms,
                OrNull(forecast.HostClass), forecast.CpuPredictor, forecast.MemoryPredictor, forecast.Reserve)
            : null);

    private static double Rounded(double value) => Math.Round(value, 3);

    private static IEnumerable<uint> ToCurve(string field, IReadOnlyList<long>? percents) =>
        percents?.Select((percent, i) => (uint)InRange($"{field}[{i}]", percent, 0, 100)) ?? [];

    private static long[]? OfCurve(RepeatedField<uint> percents) => percents.Count == 0 ? null : [.. percents.Select(percent => (long)percent)];

    public static ChangeBody ToBody(Change change) => change.Vm is { } vm
        ? new(change.Index, "vm", change.Id, Name(vm.State), ToBody(vm), null)
        : new(change.Index, "host", change.Id, Name(change.Host!.State), null, ToBody(change.Host));

    /// <summary>A state as the API writes it.</summary>
    public static string Name<T>(T state) where T : struct, System.Enum => state.ToString()!.ToLowerInvariant();

    /// <summary>The state of that name, or null.</summary>
    public static VmState? StateOf(string name) =>
        States.TryGetValue(name, out var state) ? state : null;

    /// <summary>Every state's name, in the order of a life.</summary>
    public static IEnumerable<string> StateNames => States.Keys;

    private static readonly Dictionary<string, VmState> States =
        System.Enum.GetValues<VmState>().Where(s => s != VmState.Unspecified).ToDictionary(Name, s => s);

    private static readonly Dictionary<string, string> Empty = [];

    private static long InRange(string field, long value, long least, long most) =>
        VmSpecRules.Range(field, value, least, most) is { } problem
            ? throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field)
            : value;

    private static string Text(Timestamp? at) =>
        (at?.ToDateTime() ?? DateTime.UnixEpoch).ToString("yyyy-MM-dd'T'HH:mm:ss.fff'Z'", CultureInfo.InvariantCulture);

    private static string? OrNull(string text) => text.Length == 0 ? null : text;

    // Maps have no order of their own; equal microVMs should read equal.
    private static SortedDictionary<string, string> Sorted(IDictionary<string, string> map) => new(map, StringComparer.Ordinal);
}
