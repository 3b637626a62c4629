using System.Diagnostics;
using Akka.Actor;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Vms;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;

namespace Fleet.Scheduler.Cell;

/// <summary>
/// <see cref="ICell"/> over the shard regions. Every question has an end: no answer within <see cref="CellOptions.AskTimeout"/> is
/// <c>unavailable</c>, which says nothing about whether it was carried out; every command may be repeated.
/// </summary>
internal sealed class CellClient(ActorSystem system, IActorRef vms, IActorRef hosts, IActorRef volumes, IActorRef placement, CellOptions options) : ICell
{
    /// <summary>A review asks every host, several times, and meanwhile this node places nothing: few may wait for one at once.</summary>
    private const int MostReviews = 4;

    /// <summary>For what a microVM uses, which is shown beside what it is.</summary>
    private static readonly TimeSpan UsePatience = TimeSpan.FromSeconds(2);

    private int _reviews;

    /// <summary>
    /// After this long without an answer a question is asked once more, and then each time after half as long again, eight times in ten seconds: an actor that
    /// moves to another node is told nothing that reaches its shard meanwhile (Akka's hand-off passes over it), and its caller would wait for
    /// <see cref="CellOptions.AskTimeout"/>.
    /// </summary>
    private static readonly TimeSpan FirstRepeat = TimeSpan.FromMilliseconds(250);

    /// <summary>A long wait asks again this often, so that one that is lost, as a microVM's actor moves to another node, costs at most this and <see cref="WaitLost"/>.</summary>
    private static readonly TimeSpan WaitSlice = TimeSpan.FromSeconds(5);

    /// <summary>A wait that is not answered so long after its end is lost, or its actor is slow: then it is asked as others are.</summary>
    private static readonly TimeSpan WaitLost = TimeSpan.FromSeconds(1);

    public Task<VmAnswer> CreateVmAsync(string vmId, VmSpec spec, CancellationToken cancellation, DateTimeOffset? notAfter = null)
    {
        if (!VmId.IsValid(vmId))
            throw new ArgumentException($"'{vmId}' is no id of a microVM.", nameof(vmId));
        return AskVmAsync(vmId, new CreateVm { VmId = vmId, Spec = spec, NotAfterMs = notAfter?.ToUnixTimeMilliseconds() ?? 0 }, cancellation);
    }

    public Task<VmAnswer> GetVmAsync(string vmId, CancellationToken cancellation) =>
        AskVmAsync(vmId, new ReadVm { VmId = vmId }, cancellation);

    public Task<VmAnswer> StopVmAsync(string vmId, TimeSpan? grace, CancellationToken cancellation)
    {
        var milliseconds = (grace ?? TimeSpan.FromSeconds(VmLimits.DefaultGraceSeconds)).TotalMilliseconds;
        return CommandVmAsync(vmId, new RequestStop { VmId = vmId, GraceMs = (uint)Math.Clamp(milliseconds, 0, uint.MaxValue), GraceOfSpec = grace is null }, cancellation);
    }

    public Task<VmAnswer> StartVmAsync(string vmId, CancellationToken cancellation) =>
        CommandVmAsync(vmId, new RequestStart { VmId = vmId }, cancellation);

    public Task<VmAnswer> SuspendVmAsync(string vmId, CancellationToken cancellation) =>
        CommandVmAsync(vmId, new RequestSuspend { VmId = vmId }, cancellation);

    public Task<VmAnswer> ResumeVmAsync(string vmId, CancellationToken cancellation) =>
        CommandVmAsync(vmId, new RequestResume { VmId = vmId }, cancellation);

    public Task<VmAnswer> DeleteVmAsync(string vmId, CancellationToken cancellation) =>
        CommandVmAsync(vmId, new RequestDelete { VmId = vmId }, cancellation);

    public Task<VmAnswer> LimitVmAsync(string vmId, string limiter, RateLimit? limit, CancellationToken cancellation) =>
        CommandVmAsync(vmId, new LimitVm { VmId = vmId, Name = limiter, Limit = limit }, cancellation);

    public async Task<LimitersAnswer> GetLimitersAsync(string vmId, CancellationToken cancellation)
    {
        var answer = await GetVmAsync(vmId, cancellation).ConfigureAwait(false);
        if (answer is not { Vm: { Host.Length: > 0, State: VmState.Running or VmState.Stopping } vm, Problem: null })
            return new LimitersAnswer(answer.Vm, [], answer.Problem);
        // A host that is away, or an answer that is late, takes nothing from what the journal knows.
        var read = await AskUntilAnsweredAsync<LimitersRead>(hosts, new ReadLimiters { HostId = vm.Host, VmId = vmId }, cancellation).ConfigureAwait(false);
        return new LimitersAnswer(vm, [.. (read?.Limiters ?? []).Where(limiter => limiter.Epoch == vm.Epoch)], null);
    }

    public async Task<(VmAnswer Answer, VmUse? Use)> GetVmWithUseAsync(string vmId, CancellationToken cancellation)
    {
        var answer = await GetVmAsync(vmId, cancellation).ConfigureAwait(false);
        if (answer is not { Vm: { Host.Length: > 0, State: VmState.Running or VmState.Stopping } vm, Problem: null })
            return (answer, null);
        // As for limiters: a host that is away takes nothing from the rest, and keeps nobody waiting for it.
        var read = await AskAsync<LimitersRead>(hosts, new ReadLimiters { HostId = vm.Host, VmId = vmId }, UsePatience, cancellation).ConfigureAwait(false);
        return (answer, read?.Use?.Epoch == vm.Epoch ? read.Use : null);
    }

    public async Task<VmAnswer> WaitVmAsync(string vmId, IReadOnlySet<VmState> states, TimeSpan timeout, CancellationToken cancellation)
    {
        if (!VmId.IsValid(vmId))
            return NoSuchVm(vmId);
        var until = options.Clock.GetUtcNow() + timeout;
        while (true)
        {
            var left = until - options.Clock.GetUtcNow();
            var slice = left < WaitSlice ? left : WaitSlice;
            var wait = new AwaitVm { VmId = vmId, TimeoutMs = (uint)Math.Max(0, slice.TotalMilliseconds) };
            wait.States.AddRange(states);
            var reply = await AskAsync<VmReply>(vms, wait, slice + (options.AskTimeout < WaitLost ? options.AskTimeout : WaitLost), cancellation).ConfigureAwait(false);
            // A silence is a microVM on its way to another node: it is asked how it is, and the wait goes on until its own time is over.
            if (reply is null)
            {
                reply = await AskUntilAnsweredAsync<VmReply>(vms, new ReadVm { VmId = vmId }, cancellation).ConfigureAwait(false);
                if (reply is { Problem: null, Vm: { } now } && !states.Contains(now.State))
                    reply = new VmReply { Vm = now, Problem = VmWaiters.Timeout(now) };
            }
            var goesOn = reply is null or { Problem.Code: "timeout" } && options.Clock.GetUtcNow() < until;
            if (!goesOn)
                return ToAnswer(vmId, reply);
        }
    }

    public async Task<PlacementReview> ReviewPlacementAsync(VmSpec spec, CancellationToken cancellation, bool briefly = false)
    {
        var counts = briefly ? 0 : 1;
        try
        {
            if (Interlocked.Add(ref _reviews, counts) > MostReviews && !briefly)
                throw new CellException("unavailable", "Many ask at once where microVMs would go; try again.");
            var named = spec.Placement is { } wishes ? wishes.Affinity.Select(rule => rule.Vm).Where(vm => vm.Length > 0).Distinct().ToList() : [];
            var neighbours = new Dictionary<string, string>(StringComparer.Ordinal);
            foreach (var vmId in named)
                neighbours[vmId] = VmFold.CarriedBy((await GetVmAsync(vmId, cancellation).ConfigureAwait(false)).Vm);
            var wanted = spec.Host;
            VolumeRecord? known = null;
            if (spec.Volumes.Count > 0)
            {
                var there = (await ListVolumesAsync(spec.Tenant, cancellation).ConfigureAwait(false)).ToDictionary(volume => volume.Name, StringComparer.Ordinal);
                spec = spec.Clone();
                // What is somewhere already needs no room there, and no other host will do.
                foreach (var volume in spec.Volumes.Where(volume => there.ContainsKey(volume.Name)).ToList())
                {
                    if (VolumePlaces.Conflict(there[volume.Name], known, wanted) is { } conflict)
                        return new PlacementReview([], 0, [], conflict, []);
                    known = there[volume.Name];
                    if (VolumePlaces.InUse(known, known.VmId.Length == 0 ? null : (await GetVmAsync(known.VmId, cancellation).ConfigureAwait(false)).Vm) is { } inUse)
                        return new PlacementReview([], 0, [new Rejection { Reason = RejectionReason.VolumeInUse, Hosts = 1 }], inUse, []);
                    spec.Volumes.Remove(volume);
                    spec.Host = known.Host;
                }
            }
            var review = (await placement.Ask<PlacementReviewed>(new ReviewPlacement(spec, neighbours, briefly), options.AskTimeout, cancellation).ConfigureAwait(false)).Review;
            if (known is null)
                return review;
            return review with
            {
                Reason = review.Reason is { } reason ? VolumePlaces.Waiting(known, reason) : null,
                // Its owner can't leave out a host that only its volume names.
                Changes = [.. review.Changes.Where(change => change.Field != "host" || wanted.Length > 0)],
            };
        }
        catch (AskTimeoutException late)
        {
            throw new CellException("unavailable", NoAnswer("placement of this node"), late);
        }
        finally
        {
            Interlocked.Add(ref _reviews, -counts);
        }
    }

    public Task<HostAnswer> GetHostAsync(string hostId, CancellationToken cancellation) =>
        AskHostAsync(hostId, new ReadHost { HostId = hostId }, cancellation);

    public async Task<LedgerAnswer> GetLedgerAsync(string hostId, int most, CancellationToken cancellation)
    {
        if (!VmSpecRules.IsHostId(hostId))
            return new LedgerAnswer(null, NoSuchHost(hostId));
        var read = await AskUntilAnsweredAsync<LedgerRead>(hosts, new ReadLedger { HostId = hostId, Most = (uint)most }, cancellation).ConfigureAwait(false);
        return read is null
            ? new LedgerAnswer(null, new CellProblem("unavailable", NoAnswer($"host '{hostId}'")))
            : new LedgerAnswer(read, ProblemOf(read.Problem));
    }

    public Task<HostAnswer> CordonHostAsync(string hostId, bool cordoned, CancellationToken cancellation) =>
        CommandHostAsync(hostId, new CordonHost { HostId = hostId, Cordoned = cordoned }, cancellation);

    public Task<HostAnswer> DrainHostAsync(string hostId, TimeSpan deadline, TimeSpan grace, CancellationToken cancellation) =>
        CommandHostAsync(hostId, new DrainHost { HostId = hostId, DeadlineMs = (ulong)deadline.TotalMilliseconds, GraceMs = (uint)grace.TotalMilliseconds }, cancellation);

    public Task<HostAnswer> RemoveHostAsync(string hostId, bool forced, CancellationToken cancellation) =>
        CommandHostAsync(hostId, new RemoveHost { HostId = hostId, Forced = forced }, cancellation);

    public Task<HostAnswer> EnrolHostAsync(string hostId, byte[] keyHash, bool named, CancellationToken cancellation) =>
        CommandHostAsync(hostId, new EnrolHost { HostId = hostId, KeyHash = ByteString.CopyFrom(keyHash), Named = named }, cancellation);

    public async Task<IReadOnlyList<VolumeRecord>> ListVolumesAsync(string? tenant, CancellationToken cancellation)
    {
        IMessage question = tenant is null ? new ListVolumes() : new FindVolumes { Tenant = tenant };
        return (await AskUntilAnsweredAsync<VolumesFound>(volumes, question, cancellation).ConfigureAwait(false)
            ?? throw new CellException("unavailable", NoAnswer("actor of the volumes"))).Volumes;
    }

    public async Task<VolumeRecord> ChangeVolumeAsync(IToVolumes change, CancellationToken cancellation)
    {
        var reply = await AskUntilAnsweredAsync<VolumeReply>(volumes, (IMessage)change, cancellation).ConfigureAwait(false)
            ?? throw new CellException("unavailable", NoAnswer("actor of the volumes"));
        return reply.Problem is { } problem ? throw new CellException(problem.Code, problem.Message) : reply.Volume;
    }

    public async Task<IConsoleStream> OpenConsoleAsync(string vmId, ulong? offset, bool follow, CancellationToken cancellation)
    {
        var host = (await PlacedAsync(vmId, cancellation).ConfigureAwait(false)).Host;
        // The oldest byte that is kept is what an agent answers when offset 0 is gone.
        var request = new ConsoleRequest { HostId = host, VmId = vmId, Offset = offset ?? 0, Follow = follow };
        return await ConsoleStream.OpenAsync(system, hosts, request, options.AskTimeout, cancellation).ConfigureAwait(false);
    }

    public async Task<IConsoleStream> OpenLogAsync(string vmId, LogWish wish, bool follow, CancellationToken cancellation)
    {
        var host = (await PlacedAsync(vmId, cancellation).ConfigureAwait(false)).Host;
        var request = new ConsoleRequest { HostId = host, VmId = vmId, Follow = follow, Log = wish };
        return await ConsoleStream.OpenAsync(system, hosts, request, options.AskTimeout, cancellation).ConfigureAwait(false);
    }

    public async Task<IGuestStream> OpenGuestAsync(string vmId, ReadOnlyMemory<byte> request, CancellationToken cancellation)
    {
        var record = await PlacedAsync(vmId, cancellation).ConfigureAwait(false);
        if (record.State is not (VmState.Running or VmState.Stopping))
            throw new CellException("wrong_state", $"The microVM '{vmId}' is {VmLife.Name(record.State)}: nothing runs in it.");
        return new GuestStream(system, hosts, new GuestOpen { HostId = record.Host, VmId = vmId, Tenant = record.Spec.Tenant, Request = UnsafeByteOperations.UnsafeWrap(request) });
    }

    public async Task WriteConsoleAsync(string vmId, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        var record = await PlacedAsync(vmId, cancellation).ConfigureAwait(false);
        if (record.State is not (VmState.Running or VmState.Stopping))
            throw new CellException("wrong_state", $"The microVM '{vmId}' is {VmLife.Name(record.State)}: nobody reads its console's input.");
        var host = record.Host;
        var write = new ConsoleWrite { HostId = host, VmId = vmId, Data = UnsafeByteOperations.UnsafeWrap(data) };
        var answer = await AskAsync<IMessage>(hosts, write, options.AskTimeout, cancellation).ConfigureAwait(false);
        switch (answer)
        {
            case ConsoleWritten:
                return;
            case ConsoleRefused refused:
                throw new CellException(refused.Problem.Code, refused.Problem.Message);
            default:
                throw new CellException("unavailable", NoAnswer($"host '{host}'"));
        }
    }

    private async Task<VmRecord> PlacedAsync(string vmId, CancellationToken cancellation)
    {
        var answer = await GetVmAsync(vmId, cancellation).ConfigureAwait(false);
        if (answer.Problem is { } problem)
            throw new CellException(problem.Code, problem.Message);
        return answer.Vm is { Host.Length: > 0 } record
            ? record
            : throw new CellException("wrong_state", $"The microVM '{vmId}' has written nothing yet: it is not placed on a host.");
    }

    private async Task<VmAnswer> AskVmAsync(string vmId, IMessage question, CancellationToken cancellation) => VmId.IsValid(vmId)
        ? ToAnswer(vmId, await AskUntilAnsweredAsync<VmReply>(vms, question, cancellation).ConfigureAwait(false))
        : NoSuchVm(vmId);

    private async Task<VmAnswer> CommandVmAsync(string vmId, IMessage command, CancellationToken cancellation) => VmId.IsValid(vmId)
        ? ToAnswer(vmId, await CommandAsync<VmReply>(vms, command, new ReadVm { VmId = vmId }, cancellation).ConfigureAwait(false))
        : NoSuchVm(vmId);

    private VmAnswer ToAnswer(string vmId, VmReply? reply) => reply is null
        ? new VmAnswer(null, new CellProblem("unavailable", NoAnswer($"microVM '{vmId}'")))
        : new VmAnswer(reply.Vm, ProblemOf(reply.Problem));

    private static VmAnswer NoSuchVm(string vmId) => new(null, new CellProblem("not_found", $"There is no microVM '{vmId}'."));

    private static CellProblem NoSuchHost(string hostId) => new("not_found", $"There is no host '{hostId}'.");

    private async Task<HostAnswer> AskHostAsync(string hostId, IMessage question, CancellationToken cancellation)
    {
        if (!VmSpecRules.IsHostId(hostId))
            return new HostAnswer(null, NoSuchHost(hostId));
        return ToHostAnswer(hostId, await AskUntilAnsweredAsync<HostReply>(hosts, question, cancellation).ConfigureAwait(false));
    }

    private async Task<HostAnswer> CommandHostAsync(string hostId, IMessage command, CancellationToken cancellation) => VmSpecRules.IsHostId(hostId)
        ? ToHostAnswer(hostId, await CommandAsync<HostReply>(hosts, command, new ReadHost { HostId = hostId }, cancellation).ConfigureAwait(false))
        : new HostAnswer(null, NoSuchHost(hostId));

    private HostAnswer ToHostAnswer(string hostId, HostReply? reply) => reply is null
        ? new HostAnswer(null, new CellProblem("unavailable", NoAnswer($"host '{hostId}'")))
        : new HostAnswer(reply.Host, ProblemOf(reply.Problem));

    /// <summary>
    /// The answer to a command; null when none came in time. It is told again only when it was certainly lost: an actor that answers a later question has had it
    /// before or never gets it, since both go the same way. A copy that is only late could undo what was asked for meanwhile.
    /// </summary>
    private async Task<TReply?> CommandAsync<TReply>(IActorRef region, IMessage command, IMessage question, CancellationToken cancellation)
        where TReply : class, IMessage
    {
        var begun = Stopwatch.GetTimestamp();
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        try
        {
            while (options.AskTimeout - Stopwatch.GetElapsedTime(begun) is { Ticks: > 0 } left)
            {
                var told = region.Ask<TReply>(command, left, over.Token);
                if (await Task.WhenAny(told, Task.Delay(FirstRepeat, cancellation)).ConfigureAwait(false) == told
                    || await AskUntilAnsweredAsync<TReply>(region, question, cancellation).ConfigureAwait(false) is null
                    || told.IsCompleted)
                {
                    return await told.ConfigureAwait(false);
                }
            }
            return null;
        }
        catch (AskTimeoutException)
        {
            return null;
        }
        finally
        {
            await over.CancelAsync().ConfigureAwait(false);
        }
    }

    /// <summary>The answer to a question that may be asked more than once and be late; null when none came within <see cref="CellOptions.AskTimeout"/>.</summary>
    internal async Task<TReply?> AskUntilAnsweredAsync<TReply>(IActorRef region, IMessage question, CancellationToken cancellation)
        where TReply : class, IMessage
    {
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        // Those asked before stay open: an actor that was only slow answers the first.
        var asked = new List<Task<TReply>>(1);
        var left = options.AskTimeout;
        try
        {
            for (var pause = FirstRepeat; ; pause *= 1.5)
            {
                asked.Add(region.Ask<TReply>(question, left, over.Token));
                try
                {
                    return await (await Task.WhenAny(asked).WaitAsync(left < pause ? left : pause, cancellation).ConfigureAwait(false)).ConfigureAwait(false);
                }
                catch (TimeoutException) when (left > pause)
                {
                    left -= pause;
                }
            }
        }
        catch (Exception late) when (late is AskTimeoutException or TimeoutException)
        {
            options.Log.Warning("No answer to {Question}, asked {Times} times within {Patience}", question.Descriptor.Name, asked.Count, options.AskTimeout);
            return null;
        }
        finally
        {
            await over.CancelAsync().ConfigureAwait(false);
        }
    }

    /// <summary>The answer to a question that is asked once; null when none came in time.</summary>
    internal async Task<TReply?> AskAsync<TReply>(IActorRef region, IMessage question, TimeSpan patience, CancellationToken cancellation)
        where TReply : class, IMessage
    {
        try
        {
            return await region.Ask<TReply>(question, patience, cancellation).ConfigureAwait(false);
        }
        catch (AskTimeoutException)
        {
            options.Log.Warning("No answer to {Question} within {Patience}", question.Descriptor.Name, patience);
            return null;
        }
    }

    private static CellProblem? ProblemOf(Problem? problem) => problem is null ? null : new CellProblem(problem.Code, problem.Message);

    private string NoAnswer(string whose) => $"The {whose} gave no answer within {options.AskTimeout.TotalSeconds:0} s; try again.";
}
