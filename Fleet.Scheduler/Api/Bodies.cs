using System.ComponentModel;
using System.ComponentModel.DataAnnotations;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Fleet.Scheduler.Access;
using Fleet.Shared.Admin;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Api;

// The shapes of docs/api.md. Members are written in snake_case; a null in a request is the same as an absent member.
// Attributes feed the OpenAPI document; VmSpecRules enforces the same bounds.

/// <summary>The body of a create.</summary>
internal sealed record CreateVmBody
{
    [Description("Unique among the microVMs that exist; made up when absent"), RegularExpression("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    public string? Name { get; init; }

    [Range(1, VmLimits.MaxCpus), DefaultValue(1L)]
    public long? Cpus { get; init; }

    [Description("Default 256 with the default image, else 128"), Range(VmLimits.MinMemoryMib, VmLimits.MaxMemoryMib)]
    public long? MemoryMib { get; init; }

    [Description("The program and its arguments, run as given; absent or empty: a shell on the console; at most 64 KiB together"), MaxLength(VmLimits.MaxCommandArguments)]
    public IReadOnlyList<string>? Command { get; init; }

    [Description("Variables of the command's environment; at most 32 KiB together")]
    public IReadOnlyDictionary<string, string>? Env { get; init; }

    [Description("auto, kvm, qemu or simulated"), DefaultValue("auto"), AllowedValues("auto", "kvm", "qemu", "simulated")]
    public string? Driver { get; init; }

    [Description("A kernel of your own; absent: the default image")]
    public BootBody? Boot { get; init; }

    [Description("An OCI image that its host pulls: registry/name:tag, registry/name@sha256:…, or on the host oci:/folder:tag or docker-archive:/file.tar. Its command is what follows the image's entrypoint. Not with boot; absent: the default image"), MaxLength(ImageReference.MaxLength)]
    public string? Image { get; init; }

    [Description("0: never given up. Default 120 with the default image, else 0"), Range(0, VmLimits.MaxBootTimeoutSeconds)]
    public long? BootTimeoutSeconds { get; init; }

    [Description("What follows its end: never, on_failure or always; after a pause of 1 s that doubles up to 5 min"), DefaultValue(RestartPolicy.Never), AllowedValues(RestartPolicy.Never, RestartPolicy.OnFailure, RestartPolicy.Always)]
    public string? Restart { get; init; }

    [Description("While its host is cut off: strict stands still, so that no two copies ever run; relaxed runs on, and may run twice once it is placed again elsewhere"), DefaultValue(FencingPolicy.Strict), AllowedValues(FencingPolicy.Strict, FencingPolicy.Relaxed)]
    public string? Fencing { get; init; }

    [Description("Its command has the console as a terminal. Else only its input is that; what it writes to its two outputs is kept apart, as its log"), DefaultValue(false)]
    public bool? Terminal { get; init; }

    [Description("That its guest gets to power down where a stop says nothing else; 2 s less for its command, which is killed then"), Range(0, VmLimits.MaxGraceSeconds), DefaultValue((long)VmLimits.DefaultGraceSeconds)]
    public long? StopGraceSeconds { get; init; }

    [Description("How its command is looked after; one that fails it ends as failed. Not with a kernel of your own")]
    public HealthCheckBody? Health { get; init; }

    [Description("At most 64; keys of a-z, 0-9, '.', '_', '/' and '-', values of up to 63 characters")]
    public IReadOnlyDictionary<string, string>? Labels { get; init; }

    [Description("Whose it is; only with a token of role admin, and else the token's own"), RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Tenant { get; init; }

    [Description("Only this host may carry it"), RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Host { get; init; }

    [Description("Labels that its host must have, with these values; at most 64")]
    public IReadOnlyDictionary<string, string>? HostLabels { get; init; }

    [Description("It may be in these zones only, which are hosts' label zone; at most 16. None: anywhere"), MaxLength(VmLimits.MaxZones)]
    public IReadOnlyList<string>? Zones { get; init; }

    [Description("Where room is short, those of lower classes give way to those of higher ones; high only with a token of role admin"), DefaultValue(PriorityClass.Normal), AllowedValues(PriorityClass.Low, PriorityClass.Normal, PriorityClass.High)]
    public string? Priority { get; init; }

    [Description("Of its host's disk, for what it writes there beside its volumes: counted, not enforced"), Range(0, VmLimits.MaxVolumeMib), DefaultValue(0L)]
    public long? DiskMib { get; init; }

    [Description("Mbit/s of its host's link, each way: counted, not enforced"), Range(0, VmLimits.MaxNetworkMbit), DefaultValue(0L)]
    public long? NetworkMbit { get; init; }

    [Description("Disk operations a second of its host: counted, not enforced"), Range(0, VmLimits.MaxIops), DefaultValue(0L)]
    public long? Iops { get; init; }

    [Description("Of its host; absent: any"), AllowedValues("x86_64", "aarch64")]
    public string? Architecture { get; init; }

    [Description("Its host runs this Linux kernel or a newer one: 6.1, 6.1.50; absent: any")]
    public string? MinKernel { get; init; }

    [Description("A CPU template by the name that hosts have it under; its host is one that has it. Not with the drivers qemu and simulated"), RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? CpuTemplate { get; init; }

    [Description("Where no host has room: true waits for some, false refuses the microVM"), DefaultValue(true)]
    public bool? Queue { get; init; }

    [Description("Where it is to be by where others are; absent: it is in no group, and wants nothing of others")]
    public PlacementBody? Placement { get; init; }

    [Description("Disks that outlive it. It goes where they are"), MaxLength(VmLimits.MaxVolumes)]
    public IReadOnlyList<VolumeMountBody>? Volumes { get; init; }

    [Description("Only with the driver simulated")]
    public SimulatedBody? Simulated { get; init; }

    [Description("none: no interface; tenant: one in its tenant's network on its host. Not with the driver simulated"), DefaultValue(NetworkRules.None), AllowedValues(NetworkRules.None, NetworkRules.Tenant)]
    public string? Network { get; init; }

    [Description("Ports of its host that lead to it; only with network tenant"), MaxLength(VmLimits.MaxPorts)]
    public IReadOnlyList<PortBody>? Ports { get; init; }

    [Description("What its rate limiters let pass, by the limiter's name: entropy, and with a network net.rx and net.tx. Not with the driver qemu")]
    public IReadOnlyDictionary<string, RateLimitBody>? RateLimits { get; init; }
}

/// <summary>What one rate limiter lets pass; a request takes from both buckets or waits for both.</summary>
internal sealed record RateLimitBody
{
    [Description("Bytes; absent: not limited")]
    public TokenBucketBody? Bandwidth { get; init; }

    [Description("Operations; absent: not limited")]
    public TokenBucketBody? Ops { get; init; }
}

/// <summary>A bucket of tokens that fills by size per refill_time_ms.</summary>
internal sealed record TokenBucketBody
{
    [Description("Tokens that it holds, and at first has"), Required, Range(1, VmLimits.MaxBucketSize)]
    public long? Size { get; init; }

    [Description("In which an empty one fills"), Required, Range(1, VmLimits.MaxRefillMs)]
    public long? RefillTimeMs { get; init; }

    [Description("Tokens on top, once"), Range(0, VmLimits.MaxBucketSize), DefaultValue(0L)]
    public long? OneTimeBurst { get; init; }
}

/// <summary>A port of the host, on all of its addresses, that leads to one of the microVM's.</summary>
internal sealed record PortBody
{
    [Description("Of the host; tenants' from 1024 on"), Required, Range(1, ushort.MaxValue)]
    public long? Host { get; init; }

    [Description("Of the guest; default: the same"), Range(1, ushort.MaxValue)]
    public long? Guest { get; init; }

    [DefaultValue(NetworkRules.Tcp), AllowedValues(NetworkRules.Tcp, NetworkRules.Udp)]
    public string? Protocol { get; init; }
}

/// <summary>Where a microVM is reached by its host, and by others of its tenant there.</summary>
internal sealed record AddressesBody(string Ipv4, string Ipv6);

/// <summary>A kernel by absolute paths on the host.</summary>
internal sealed record BootBody
{
    [Required, RegularExpression("^/"), MaxLength(VmLimits.MaxPathBytes)]
    public string? KernelPath { get; init; }

    [RegularExpression("^/"), MaxLength(VmLimits.MaxPathBytes)]
    public string? InitrdPath { get; init; }

    [MaxLength(VmLimits.MaxBootArgsLength)]
    public string? BootArgs { get; init; }
}

/// <summary>The script of a guest that does not exist.</summary>
internal sealed record SimulatedBody
{
    [Range(0, VmLimits.MaxSimulatedMs), DefaultValue(0L)]
    public long? BootMs { get; init; }

    [Description("0: runs until it is stopped"), Range(0, VmLimits.MaxSimulatedMs), DefaultValue(0L)]
    public long? RunMs { get; init; }

    [Range(0, 255), DefaultValue(0L)]
    public long? ExitStatus { get; init; }

    [AllowedValues("launch_fails", "never_boots", "vmm_dies")]
    public string? Fault { get; init; }

    [Description("Percent of its vCPUs that it uses from its start on, a step each, then over again"), MaxLength(VmLimits.MaxCurveSteps)]
    public IReadOnlyList<long>? CpuPercent { get; init; }

    [Description("Percent of its memory, likewise"), MaxLength(VmLimits.MaxCurveSteps)]
    public IReadOnlyList<long>? MemoryPercent { get; init; }

    [Description("Length of a step of both curves"), Range(VmLimits.MinCurveStepMs, VmLimits.MaxSimulatedMs)]
    public long? StepMs { get; init; }
}

/// <summary>The body of a stop.</summary>
internal sealed record StopVmBody
{
    [Description("Default: stop_grace_seconds of the microVM"), Range(0, VmLimits.MaxGraceSeconds)]
    public long? GraceSeconds { get; init; }
}

/// <summary>The body of a host's drain.</summary>
internal sealed record DrainHostBody
{
    [Description("Then what is left is stopped at once, and placed again"), Range(0, VmLimits.MaxDrainSeconds), DefaultValue((long)VmLimits.DefaultDrainSeconds)]
    public long? DeadlineSeconds { get; init; }

    [Description("That each guest gets to power down"), Range(0, VmLimits.MaxGraceSeconds), DefaultValue((long)VmLimits.DefaultGraceSeconds)]
    public long? GraceSeconds { get; init; }
}

/// <summary>A health check: either a command or a port.</summary>
internal sealed record HealthCheckBody
{
    [Description("Passes when it ends with 0; run in the guest"), MaxLength(VmLimits.MaxCommandArguments)]
    public IReadOnlyList<string>? Command { get; init; }

    [Description("TCP, of the guest itself; passes when it takes a connection"), Range(1, ushort.MaxValue)]
    public long? Port { get; init; }

    [Description("Asked of the port; passes when the answer is 200 to 399")]
    public string? HttpPath { get; init; }

    [Description("Between one check's end and the next"), Range(1, HealthRules.MaxSeconds), DefaultValue((long)HealthRules.DefaultInterval)]
    public long? IntervalSeconds { get; init; }

    [Range(1, HealthRules.MaxTimeoutSeconds), DefaultValue((long)HealthRules.DefaultTimeout)]
    public long? TimeoutSeconds { get; init; }

    [Description("In a row, that make it unhealthy"), Range(1, HealthRules.MaxFailures), DefaultValue((long)HealthRules.DefaultFailures)]
    public long? Failures { get; init; }

    [Description("From the command's start; failures in it do not count"), Range(0, HealthRules.MaxSeconds), DefaultValue(0L)]
    public long? StartPeriodSeconds { get; init; }
}

internal sealed record ReasonBody(string Code, string Message);

/// <summary>A microVM.</summary>
internal sealed record VmBody(
    string Id,
    string Name,
    string? Tenant,
    string State,
    ReasonBody? Reason,
    int? ExitStatus,
    string? Host,
    ulong Epoch,
    string? Driver,
    int? VmmPid,
    AddressesBody? Addresses,
    string CreatedAt,
    string ChangedAt,
    ulong Version,
    uint Restarts,
    string? RestartAt,
    GangMemberBody? Gang,
    LogExtentBody? Log,
    VmUsageBody? Usage,
    MovedBody? Moved,
    VmSpecBody Spec);

/// <summary>What the host has of what a command wrote, when it ended: bytes from one position up to, not including, the other, less those that are lost.</summary>
internal sealed record LogExtentBody(ulong First, ulong End, ulong LostBytes);

/// <summary>What a microVM used in the last ten seconds, as its host saw it; null in lists and changes, and until its host has told.</summary>
/// <param name="Guest">What the guest says of itself: nobody vouches for it. Null: it said nothing lately, or what can't be.</param>
internal sealed record VmUsageBody(double Cpus, ulong MemoryMib, CpuCreditsBody? CpuCredits, GuestBody? Guest);

/// <summary>CPU credits of all its vCPUs together.</summary>
/// <param name="BalanceSeconds">CPU time that is saved; below 0: a debt.</param>
/// <param name="VcpusHeldBack">That have none left and are held to their baseline.</param>
internal sealed record CpuCreditsBody(double BalanceSeconds, uint VcpusHeldBack);

/// <summary>A guest's own word.</summary>
/// <param name="Load">Load averages of 1, 5 and 15 minutes.</param>
/// <param name="Health">Null: it has no health check.</param>
internal sealed record GuestBody(ulong MemoryMib, ulong AvailableMib, IReadOnlyList<double> Load, uint Tasks, GuestHealthBody? Health);

/// <summary>How a health check goes: <c>starting</c>, <c>passing</c> or <c>failing</c>.</summary>
/// <param name="Failures">In a row.</param>
internal sealed record GuestHealthBody(string State, uint Failures);

/// <summary>How a microVM left its last host; the console that is kept begins with this one.</summary>
/// <param name="From">That host.</param>
/// <param name="WithMemory">It goes on here; else it began anew.</param>
/// <param name="Reason">Why it began anew.</param>
internal sealed record MovedBody(string From, bool WithMemory, ReasonBody? Reason);

/// <summary>What was wanted, with every default filled in.</summary>
internal sealed record VmSpecBody(
    string Name,
    uint Cpus,
    uint MemoryMib,
    IReadOnlyList<string> Command,
    IReadOnlyDictionary<string, string> Env,
    string Driver,
    BootBody? Boot,
    string? Image,
    uint BootTimeoutSeconds,
    string Restart,
    string Fencing,
    bool Terminal,
    int StopGraceSeconds,
    HealthCheckBody? Health,
    IReadOnlyDictionary<string, string> Labels,
    string? Host,
    IReadOnlyDictionary<string, string> HostLabels,
    IReadOnlyList<string> Zones,
    string Priority,
    ulong DiskMib,
    uint NetworkMbit,
    ulong Iops,
    string? Architecture,
    string? MinKernel,
    string? CpuTemplate,
    bool Queue,
    PlacementBody? Placement,
    IReadOnlyList<VolumeMountBody> Volumes,
    SimulatedBody? Simulated,
    string Network,
    IReadOnlyList<PortBody> Ports,
    IReadOnlyDictionary<string, RateLimitBody> RateLimits);

/// <summary>The rate limiters of a microVM.</summary>
/// <param name="Items">Those that are limited or were, in the order of names.</param>
internal sealed record RateLimitersBody(IReadOnlyList<RateLimiterBody> Items);

/// <summary>One rate limiter.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Limit">What is wanted; null: no limit.</param>
/// <param name="InForce">Whether the VMM is known to do what is wanted.</param>
/// <param name="Measured">What it did; null while the host did not tell.</param>
internal sealed record RateLimiterBody(string Name, RateLimitBody? Limit, bool InForce, LimiterFiguresBody? Measured);

/// <summary>What a rate limiter did since its VMM began.</summary>
/// <param name="Limit">What it lets pass at present; null: all.</param>
/// <param name="PassedOps">Operations that it let pass.</param>
/// <param name="PassedBytes">Their bytes.</param>
/// <param name="ThrottledCount">Requests that had to wait.</param>
/// <param name="ThrottledUs">How long they waited together, microseconds.</param>
internal sealed record LimiterFiguresBody(RateLimitBody? Limit, ulong PassedOps, ulong PassedBytes, ulong ThrottledCount, ulong ThrottledUs);

internal sealed record DriverBody(
    string Name, bool Usable, bool StockKernels, string Detail);

/// <summary>Why a host gets no microVM for now: launches failed there. From <paramref name="RetryAt"/> on it gets one as a trial.</summary>
internal sealed record QuarantineBody(ReasonBody Reason, string Since, string RetryAt);

/// <summary>How far a host's drain is.</summary>
/// <param name="Since">When it began.</param>
/// <param name="Deadline">When what is left is stopped at once.</param>
/// <param name="Vms">MicroVMs that were there at first.</param>
/// <param name="Left">That are still there.</param>
/// <param name="DoneAt">Null: some are.</param>
/// <param name="Staying">Some that find no place elsewhere, and why; only where one host is shown.</param>
internal sealed record DrainBody(string Since, string Deadline, uint Vms, uint Left, string? DoneAt, IReadOnlyList<DrainStayBody> Staying);

internal sealed record DrainStayBody(string Id, ReasonBody Reason);

/// <summary>What is used of a host, what its microVMs are predicted to use at most, and what it may promise.</summary>
/// <param name="CapCpus">vCPUs that the sum of limits may reach.</param>
/// <param name="CapMemoryMib">The same of memory.</param>
/// <param name="CapDiskMib">The same of disk, that volumes take too; null: not limited.</param>
/// <param name="CapNetworkMbit">The same of the link, each way; null: not limited.</param>
/// <param name="CapIops">The same of disk operations a second; null: not limited.</param>
/// <param name="VolumesMib">What volumes that are there, or about to be made, take of the disk.</param>
/// <param name="SavedMib">What suspended microVMs are saved in there takes of it.</param>
/// <param name="UsedCpus">CPUs that the whole machine uses; null: its agent has not told.</param>
/// <param name="UsedMemoryMib">Memory of the machine that is not available.</param>
/// <param name="StolenShare">Of its CPUs' time, that the machine's own hypervisor took: 0 to 1.</param>
/// <param name="WaitingCpus">vCPUs that were ready to run and waited for a CPU, on average.</param>
/// <param name="Stalls">Null: its kernel does not tell.</param>
/// <param name="Forecast">Null: hosts promise by their ratios alone.</param>
internal sealed record HostUsageBody(
    ulong CapCpus, ulong CapMemoryMib, ulong? CapDiskMib, ulong? CapNetworkMbit, ulong? CapIops, ulong? VolumesMib, ulong? SavedMib, double? UsedCpus, ulong? UsedMemoryMib, double? StolenShare, double? WaitingCpus, StallsBody? Stalls, ForecastBody? Forecast);

/// <summary>Shares of the last ten seconds, 0 to 1, in which some process of the machine, or all that were not idle, stood still for want of it.</summary>
internal sealed record StallsBody(double CpuSome, double MemorySome, double MemoryFull, double IoSome, double IoFull);

/// <summary>A prediction.</summary>
/// <param name="PeakCpus">What the microVMs are predicted to use at once at most.</param>
/// <param name="RoomCpus">What they may be predicted to use: the machine less its reserve.</param>
/// <param name="KnownVms">microVMs with history enough; all others count as at their limit.</param>
/// <param name="HostClass">The class of hosts whose predictors these are; null: it is in none.</param>
/// <param name="Reserve">Share of the machine that is left free.</param>
internal sealed record ForecastBody(
    double PeakCpus, double RoomCpus, double PeakMemoryMib, double RoomMemoryMib, uint KnownVms, string? HostClass, string CpuPredictor, string MemoryPredictor, double Reserve);

/// <summary>What a host does about want of CPU and of memory on its machine: calm, closed, reclaim, squeeze or evict.</summary>
internal sealed record PressureBody(string Cpu, string Memory, string Why);

/// <summary>A host.</summary>
internal sealed record HostBody(
    string Id,
    string State,
    bool Cordoned,
    QuarantineBody? Quarantine,
    DrainBody? Drain,
    PressureBody? Pressure,
    uint Cpus,
    ulong MemoryMib,
    ulong? DiskMib,
    uint? NetworkMbit,
    ulong? Iops,
    uint ReservedCpus,
    ulong ReservedMemoryMib,
    ulong ReservedDiskMib,
    ulong ReservedNetworkMbit,
    ulong ReservedIops,
    uint Vms,
    IReadOnlyList<DriverBody> Drivers,
    string? AutoDriver,
    string Kernel,
    string Architecture,
    IReadOnlyList<string> CpuTemplates,
    string AgentVersion,
    string? ConnectedAt,
    string? SilentSince,
    double? GivenUpInSeconds,
    IReadOnlyDictionary<string, string> Labels,
    HostUsageBody? Usage);

internal sealed record VmListBody(IReadOnlyList<VmBody> Items, string? NextPageToken);

internal sealed record HostListBody(IReadOnlyList<HostBody> Items, string? NextPageToken);

/// <summary>One change; of <c>vm</c> and <c>host</c> exactly one is the object, by its kind.</summary>
[JsonConverter(typeof(ChangeBodyConverter))]
internal sealed record ChangeBody(long Index, string Kind, string Id, string State, VmBody? Vm, HostBody? Host);

/// <summary>One of the operator's commands.</summary>
internal sealed record AdminCommandBody
{
    /// <summary>A value of <see cref="Format"/>.</summary>
    public const string Text = "text";

    /// <inheritdoc cref="Text"/>
    public const string Rows = "rows";

    [Description("Palette, verb, and what it takes")]
    public IReadOnlyList<string>? Words { get; init; }

    [Description("Lines for people, or objects for programs"), AllowedValues(Text, Rows), DefaultValue(Text)]
    public string? Format { get; init; }
}

/// <summary>What the operator's commands of a node are.</summary>
internal sealed record PaletteListBody(IReadOnlyList<PaletteDefinition> Items);

internal sealed record ChangesBody(long Index, IReadOnlyList<ChangeBody> Changes);

/// <param name="Status">ok</param>
/// <param name="Version">Null without a token.</param>
/// <param name="Pid">Null without a token.</param>
internal sealed record HealthBody(string Status, string? Version, int? Pid);

/// <summary>The body of a token's create.</summary>
internal sealed record CreateTokenBody
{
    [Description("What it is good for: host and scheduler to join, admin and tenant at the API"), Required, AllowedValues("host", "scheduler", "admin", "tenant")]
    public string? Role { get; init; }

    [Description("With role tenant: whose"), RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Tenant { get; init; }

    [Description("With role host: only this host may join by it, and may be known already"), RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Host { get; init; }

    [Description("Default: 3600 for host and scheduler, without end for admin and tenant"), Range(10, 315_360_000)]
    public long? TtlSeconds { get; init; }

    [Description("What it is for, for people"), MaxLength(TokenRules.MaxNote)]
    public string? Note { get; init; }
}

/// <summary>A token, without its secret.</summary>
internal sealed record TokenBody(
    string Id, string Role, string? Tenant, string? Host, string Note, string CreatedAt, string? CreatedBy, string? ExpiresAt, string? RevokedAt);

/// <param name="Secret">The token's text: this is the only time that it is shown.</param>
/// <param name="Token">What is kept of it.</param>
internal sealed record NewTokenBody(string Secret, TokenBody Token);

internal sealed record TokenListBody(IReadOnlyList<TokenBody> Items);

/// <summary>A command to run in a microVM beside its own: the first message of the WebSocket.</summary>
/// <param name="Command">Program and arguments, 1 to 1024.</param>
/// <param name="Env">Put over the environment of the microVM's own command.</param>
/// <param name="Workdir">A folder in the guest; if absent the image's, else the root.</param>
/// <param name="User">Who it runs as, <c>user</c> or <c>user:group</c>, each a name or a number; who the microVM's own command does if absent.</param>
/// <param name="Tty">It gets a terminal of its own: standard output and error in one.</param>
/// <param name="Rows">Of the terminal, 1 to 1000.</param>
/// <param name="Columns">Of the terminal, 1 to 1000.</param>
internal sealed record ExecBody(IReadOnlyList<string>? Command, IReadOnlyDictionary<string, string>? Env, string? Workdir, string? User, bool? Tty, long? Rows, long? Columns);

/// <summary>RFC 9457.</summary>
internal sealed record ProblemBody(
    string Type,
    string Title,
    int Status,
    string Detail,
    string Code,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] string? Field,
    string RequestId);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(CreateVmBody))]
[JsonSerializable(typeof(CreateGangBody))]
[JsonSerializable(typeof(GangBody))]
[JsonSerializable(typeof(CreateVolumeBody))]
[JsonSerializable(typeof(CopyVolumeBody))]
[JsonSerializable(typeof(VolumeBody))]
[JsonSerializable(typeof(VolumeListBody))]
[JsonSerializable(typeof(StopVmBody))]
[JsonSerializable(typeof(DrainHostBody))]
[JsonSerializable(typeof(RateLimitBody))]
[JsonSerializable(typeof(RateLimitersBody))]
[JsonSerializable(typeof(VmBody))]
[JsonSerializable(typeof(VmListBody))]
[JsonSerializable(typeof(HostBody))]
[JsonSerializable(typeof(HostListBody))]
[JsonSerializable(typeof(ChangeBody))]
[JsonSerializable(typeof(ChangesBody))]
[JsonSerializable(typeof(HealthBody))]
[JsonSerializable(typeof(CreateTokenBody))]
[JsonSerializable(typeof(TokenBody))]
[JsonSerializable(typeof(NewTokenBody))]
[JsonSerializable(typeof(TokenListBody))]
[JsonSerializable(typeof(ProblemBody))]
[JsonSerializable(typeof(ExecBody))]
[JsonSerializable(typeof(AdminCommandBody))]
[JsonSerializable(typeof(PaletteListBody))]
[JsonSerializable(typeof(PlacementReviewBody))]
internal sealed partial class ApiJson : JsonSerializerContext
{
    /// <summary>
    /// The JSON of the API. Text stays readable: what escapes for HTML is of no use in answers that say what they are
    /// (<c>application/json</c>, <c>nosniff</c>).
    /// </summary>
    public static ApiJson Wire { get; } = new(new JsonSerializerOptions
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        NumberHandling = JsonNumberHandling.Strict,
    });
}
