using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Host.Pressure;
using Fleet.Host.Snapshots;
using Fleet.Host.State;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers;

/// <summary>A microVM under fleet-vmm, which speaks Firecracker's API and writes down how it ended.</summary>
internal sealed class KvmVmm : RunningVmm
{
    private const int MaxAnswer = 64 * 1024;
    private static readonly TimeSpan RetryEvery = TimeSpan.FromSeconds(1);

    /// <summary>How often a guest tells of its memory while nobody wants to know: it can't be switched on later.</summary>
    public static readonly TimeSpan TellsInCalm = TimeSpan.FromHours(1);

    private const int BadSystemCall = 31; // SIGSYS

    /// <summary>The guest's number among sockets. Every microVM has a VMM of its own, and so may have the same.</summary>
    public const int GuestContext = 3;

    /// <summary>Where fleet-init listens, docs/guest-protocol.md.</summary>
    private const int GuestPort = 7070;

    private static readonly TimeSpan GuestRetry = TimeSpan.FromMilliseconds(200);
    /// <summary>For the VMM to write what it saves: a disk that is slow, and one that is slower than 10 MiB a second.</summary>
    private static readonly TimeSpan SavePatience = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan SavePatiencePerMib = TimeSpan.FromMilliseconds(100);

    private readonly HttpClient _api;
    private readonly JailKeeper _jails;
    private volatile bool _saving;
    private Task _learning = Task.CompletedTask;

    public KvmVmm(VmmLaunch launch, VmmProcess process, DriverOptions options, JailKeeper jails) : base(launch, process, options)
    {
        _jails = jails;
        _api = new HttpClient(NewHandler(launch.Directory))
        {
            BaseAddress = new Uri("http://fleet-vmm/"),
            MaxResponseContentBufferSize = MaxAnswer,
            Timeout = TimeSpan.FromSeconds(10),
        };
    }

    /// <inheritdoc/>
    protected override bool FilesAreLimited => Posix.MayLimitOthers && !_saving && base.FilesAreLimited;

    // A VMM that was not asked to save writes nothing there.
    protected override IEnumerable<string> SmallFiles =>
        _saving ? base.SmallFiles : [.. base.SmallFiles, SnapshotFiles.StateName(Launch.Epoch), SnapshotFiles.MemoryName(Launch.Epoch)];

    /// <summary>Waits until the guest was started; false when fleet-vmm ended instead.</summary>
    public async Task<bool> BeginAsync(CancellationToken cancellation)
    {
        var socket = await VmmSocket.ConnectAsync(Launch.Directory, VmmFiles.ApiSocket, Process, Clock, cancellation).ConfigureAwait(false);
        if (socket is null) return false;
        socket.Dispose();
        // Answered only when the machine was built and started: the socket listens before, but is not served.
        await LearnThreadsAsync(cancellation).ConfigureAwait(false);
        Keep();
        return true;
    }

    /// <summary>
    /// Takes up the guest of the snapshot, and has it run only when nobody else can do so any more; false when fleet-vmm ended instead.
    /// </summary>
    public async Task<bool> LoadAsync(CancellationToken cancellation)
    {
        var socket = await VmmSocket.ConnectAsync(Launch.Directory, VmmFiles.ApiSocket, Process, Clock, cancellation).ConfigureAwait(false);
        if (socket is null) return false;
        socket.Dispose();
        if (Launch.Lease is { } lease) await PutAsync("fleet/lease", LeaseBody(lease), cancellation).ConfigureAwait(false);
        await PutAsync(
            "snapshot/load",
            new JsonObject
            {
                ["snapshot_path"] = JailCommand.State,
                ["mem_backend"] = new JsonObject { ["backend_type"] = "File", ["backend_path"] = JailCommand.Memory },
                ["fleet_status_port_override"] = new JsonObject { ["output_path"] = JailCommand.Status },
                ["clock_realtime"] = true,
            },
            cancellation).ConfigureAwait(false);
        cancellation.ThrowIfCancellationRequested();
        SnapshotFiles.Delete(Launch.Directory, Launch.SnapshotEpoch);
        // From here on this VMM is all that there is of the microVM. What it does not hear now it is told again.
        Attend();
        return true;
    }

    /// <inheritdoc/>
    public override async Task SuspendAsync(string forHost = "", uint forEnrolment = 0)
    {
        // One that was just taken over or up may still be paused, and is told to run.
        await _learning.WaitAsync(SavePatience, Clock).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        if (!_learning.IsCompleted) throw new SnapshotFailedException("fleet-vmm does not answer.");
        SnapshotFiles.CheckRoom(Launch.Directory, Launch.Spec.MemoryMib);
        _saving = true;
        try
        {
            if (Posix.MayLimitOthers) Process.LimitFileSize((ulong)SnapshotFiles.LargestOf(Launch.Spec.MemoryMib));
            using var limit = new CancellationTokenSource(SavePatience + (SavePatiencePerMib * Launch.Spec.MemoryMib), Clock);
            await PauseAsync(limit.Token).ConfigureAwait(false);
            await SaveAsync(limit.Token).ConfigureAwait(false);
            SnapshotFiles.Complete(Launch.Directory, new SnapshotRecord { VmId = Launch.VmId, Epoch = Launch.Epoch, Driver = "kvm", ForHost = forHost, ForEnrolment = forEnrolment });
        }
        catch (Exception e) when (e is HttpRequestException or IOException or UnauthorizedAccessException or JsonException or OperationCanceledException
            or VmmRefusedException or ObjectDisposedException or System.ComponentModel.Win32Exception)
        {
            // A record that stands all the same is what counts: another agent would go by it.
            if (!File.Exists(Path.Combine(Launch.Directory, SnapshotFiles.RecordName(Launch.Epoch)))) throw await GoOnAsync(e).ConfigureAwait(false);
        }
        Decide(VmmEnd.OfSaved);
        await EndAsync().ConfigureAwait(false);
    }

    /// <summary>Has the guest stand still.</summary>
    internal Task PauseAsync(CancellationToken cancellation) => PatchAsync("vm", new JsonObject { ["state"] = "Paused" }, cancellation);

    private async Task<SnapshotFailedException> GoOnAsync(Exception why)
    {
        while (!Process.Ended.IsCompleted)
        {
            try
            {
                await PatchAsync("vm", new JsonObject { ["state"] = "Resumed" }, CancellationToken.None).ConfigureAwait(false);
                break;
            }
            catch (Exception e) when (e is HttpRequestException or IOException or JsonException or OperationCanceledException or VmmRefusedException or ObjectDisposedException)
            {
                Log.Error("fleet-vmm {Pid} is paused and does not go on: {Why}. It is told again", Pid, e.Message);
            }
            await Process.Gone.WaitAsync(RetryEvery, Clock).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
        try
        {
            SnapshotFiles.Empty(Launch.Directory, Launch.Epoch);
            LimitFiles();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or System.ComponentModel.Win32Exception)
        {
            Log.Error("What fleet-vmm {Pid} began to save can't be removed: {Why}", Pid, e.Message);
        }
        _saving = false;
        return new SnapshotFailedException($"fleet-vmm could not save it: {why.Message}", why);
    }

    private async Task SaveAsync(CancellationToken cancellation)
    {
        // Beside the other requests, which have little patience; the VMM answers none of them meanwhile.
        using var api = new HttpClient(NewHandler(Launch.Directory)) { BaseAddress = _api.BaseAddress, MaxResponseContentBufferSize = MaxAnswer, Timeout = Timeout.InfiniteTimeSpan };
        var body = new JsonObject { ["snapshot_path"] = JailCommand.SavedState, ["mem_file_path"] = JailCommand.SavedMemory };
        using var answer = await api.PutAsync(new Uri("snapshot/create", UriKind.Relative), Json(body), cancellation).ConfigureAwait(false);
        if (answer.StatusCode != HttpStatusCode.NoContent) await ReadAsync(answer, cancellation).ConfigureAwait(false);
    }

    /// <summary>Keeps a VMM that runs already, or is to run.</summary>
    public void Attend()
    {
        // An agent before may have had it begin to save.
        _saving = true;
        Keep();
        _learning = KeepLearningAsync();
    }

    /// <summary>Dials fleet-init's port, again and again until it listens.</summary>
    public override async Task<Stream?> ConnectGuestAsync(CancellationToken cancellation)
    {
        while (true)
        {
            if (await base.ConnectGuestAsync(cancellation).ConfigureAwait(false) is not { } connection) return null;
            try
            {
                if (await DialAsync(connection, cancellation).ConfigureAwait(false)) return connection;
            }
            catch (Exception)
            {
                await connection.DisposeAsync().ConfigureAwait(false);
                throw;
            }
            await connection.DisposeAsync().ConfigureAwait(false);
            await Task.Delay(GuestRetry, Clock, cancellation).ConfigureAwait(false);
        }
    }

    // As Firecracker has it: "CONNECT port" is answered by "OK number" when the guest has taken it, else by the end.
    private static async Task<bool> DialAsync(Stream connection, CancellationToken cancellation)
    {
        const int longest = 32;
        try
        {
            await connection.WriteAsync(Encoding.ASCII.GetBytes($"CONNECT {GuestPort}\n"), cancellation).ConfigureAwait(false);
            var letter = new byte[1];
            for (int i = 0; i < longest && await connection.ReadAsync(letter, cancellation).ConfigureAwait(false) == 1; i++)
            {
                if (letter[0] == '\n') return true;
            }
            return false;
        }
        catch (IOException)
        {
            return false;
        }
    }

    protected override Task AskGuestAsync(CancellationToken cancellation) =>
        PutAsync("actions", new JsonObject { ["action_type"] = "SendCtrlAltDel" }, cancellation);

    protected override Task QuitAsync(CancellationToken cancellation)
    {
        Process.Signal(Posix.SigTerm);
        return Task.CompletedTask;
    }

    protected override VmmEnd Explain(ProcessEnd end) => FleetVmmExit.Read(Launch.Directory)?.AsEnd() ?? (Forbidden(end, Pid) is { } why ? Failed(why.Code, why.Message) : Unexplained(end));

    /// <summary>What a VMM died of that made a system call outside its filter (docs/jail.md); null: it did not.</summary>
    public static Reason? Forbidden(ProcessEnd end, int pid) => end.Signal != BadSystemCall ? null : new Reason
    {
        Code = "seccomp",
        Message = $"fleet-vmm (pid {pid}) made a system call that its filter forbids, and the kernel ended it: a guest broke into it, or it has a defect. "
            + $"The kernel's log names the call: dmesg | grep 'type=1326.* pid={pid} '",
    };

    public override VmmUse? ReadUse() => base.ReadUse() is { } use ? use with { Stalls = _jails.GroupsOf(Launch).StallsOf(Launch.VmId) } : null;

    public override async Task<LimiterReading?> ReadLimiterAsync(string name, CancellationToken cancellation)
    {
        using var answer = await _api.GetAsync(new Uri("fleet/limiters", UriKind.Relative), cancellation).ConfigureAwait(false);
        return VmmLimiters.Find(await ReadAsync(answer, cancellation).ConfigureAwait(false), name);
    }

    public override async Task SetLimiterAsync(string name, RateLimit? limit, CancellationToken cancellation)
    {
        var (path, body) = VmmLimiters.Update(name, limit);
        await PatchAsync(path, body, cancellation).ConfigureAwait(false);
    }

    public override async Task<BalloonReading?> ReadBalloonAsync(CancellationToken cancellation)
    {
        using var answer = await _api.GetAsync(new Uri("balloon/statistics", UriKind.Relative), cancellation).ConfigureAwait(false);
        // One that an agent of an earlier version started has none.
        return answer.StatusCode == HttpStatusCode.BadRequest ? null : VmmBalloon.Read(await ReadAsync(answer, cancellation).ConfigureAwait(false));
    }

    public override async Task SetBalloonAsync(uint targetMib, TimeSpan tells, CancellationToken cancellation)
    {
        await PatchAsync("balloon/statistics", new JsonObject { ["stats_polling_interval_s"] = (int)tells.TotalSeconds }, cancellation).ConfigureAwait(false);
        await PatchAsync("balloon", new JsonObject { ["amount_mib"] = targetMib }, cancellation).ConfigureAwait(false);
    }

    public override void ShareCpu(CpuShare share) => _jails.GroupsOf(Launch).ShareCpu(Launch.VmId, share);

    public override async Task<bool> HoldLeaseAsync(VmmLease lease, CancellationToken cancellation)
    {
        await PutAsync("fleet/lease", LeaseBody(lease), cancellation).ConfigureAwait(false);
        return true;
    }

    /// <summary>As fleet-vmm's API and configuration file have it (docs/vmm.md).</summary>
    public static JsonObject LeaseBody(VmmLease lease) => new()
    {
        ["lapses_at_ms"] = (long)lease.LapsesAt.TotalMilliseconds,
        ["ends_after_ms"] = (long)(lease.EndsAt - lease.LapsesAt).TotalMilliseconds,
    };

    protected override async ValueTask ReleaseAsync()
    {
        await _learning.ConfigureAwait(false);
        _api.Dispose();
        if (Process.Ended.IsCompleted) await _jails.RemoveAsync(Launch).ConfigureAwait(false);
    }

    private static SocketsHttpHandler NewHandler(string directory) => new()
    {
        ConnectCallback = async (_, cancellation) => new NetworkStream(
            await VmmSocket.ConnectAsync(directory, VmmFiles.ApiSocket, cancellation).ConfigureAwait(false), ownsSocket: true),
        UseProxy = false,
        // The VMM takes few connections; none is kept for a request that may never come.
        MaxConnectionsPerServer = 1,
        PooledConnectionIdleTimeout = TimeSpan.FromSeconds(2),
    };

    // Only who saves it pauses it: one that an agent left so, or that was just taken up, is to run.
    private async Task RunIfPausedAsync(CancellationToken cancellation)
    {
        using var answer = await _api.GetAsync(new Uri("/", UriKind.Relative), cancellation).ConfigureAwait(false);
        var state = (await ReadAsync(answer, cancellation).ConfigureAwait(false))["state"]?.GetValue<string>();
        if (state == "Paused") await PatchAsync("vm", new JsonObject { ["state"] = "Resumed" }, cancellation).ConfigureAwait(false);
        SnapshotFiles.Empty(Launch.Directory, Launch.Epoch);
        LimitFiles();
        _saving = false;
    }

    private async Task LearnThreadsAsync(CancellationToken cancellation)
    {
        using var answer = await _api.GetAsync(new Uri("fleet/vcpus", UriKind.Relative), cancellation).ConfigureAwait(false);
        var body = await ReadAsync(answer, cancellation).ConfigureAwait(false);
        var threads = body["threads"] as JsonArray ?? [];
        // A VMM that a guest broke into may say anything; each thread gets an actor.
        if (threads.Count != Launch.Spec.Cpus) throw new InvalidOperationException($"fleet-vmm names {threads.Count} vCPUs, not {Launch.Spec.Cpus}");
        Learn(InnerThreads.ToOuter(Pid, [.. threads.Select(t => t?.GetValue<int>() ?? 0)]));
    }

    private async Task KeepLearningAsync()
    {
        while (!Detached.IsCancellationRequested && !Process.Ended.IsCompleted)
        {
            try
            {
                await RunIfPausedAsync(Detached).ConfigureAwait(false);
                await LearnThreadsAsync(Detached).ConfigureAwait(false);
                return;
            }
            catch (Exception e) when (e is HttpRequestException or IOException or JsonException or InvalidOperationException
                or OperationCanceledException or VmmRefusedException or UnauthorizedAccessException or System.ComponentModel.Win32Exception)
            {
                if (!Detached.IsCancellationRequested) Log.Warning("fleet-vmm {Pid} does not tell its vCPUs: {Why}", Pid, e.Message);
            }
            await Task.Delay(RetryEvery, Clock, Detached).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private async Task PutAsync(string path, JsonObject body, CancellationToken cancellation)
    {
        using var answer = await _api.PutAsync(new Uri(path, UriKind.Relative), Json(body), cancellation).ConfigureAwait(false);
        if (answer.StatusCode != HttpStatusCode.NoContent) await ReadAsync(answer, cancellation).ConfigureAwait(false);
    }

    private async Task PatchAsync(string path, JsonObject body, CancellationToken cancellation)
    {
        using var answer = await _api.PatchAsync(new Uri(path, UriKind.Relative), Json(body), cancellation).ConfigureAwait(false);
        if (answer.StatusCode != HttpStatusCode.NoContent) await ReadAsync(answer, cancellation).ConfigureAwait(false);
    }

    private static ByteArrayContent Json(JsonObject body)
    {
        var content = new ByteArrayContent(Encoding.UTF8.GetBytes(body.ToJsonString()));
        content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        return content;
    }

    private static async Task<JsonObject> ReadAsync(HttpResponseMessage answer, CancellationToken cancellation)
    {
        var bytes = await answer.Content.ReadAsByteArrayAsync(cancellation).ConfigureAwait(false);
        var body = bytes.Length > 0 ? JsonNode.Parse(bytes) as JsonObject ?? [] : [];
        return answer.IsSuccessStatusCode ? body : throw new VmmRefusedException($"fleet-vmm answered {(int)answer.StatusCode}: {body["fault_message"]}");
    }
}
