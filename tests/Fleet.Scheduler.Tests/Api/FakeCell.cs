using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using System.Threading.Channels;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Vms;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Tests.Api;

/// <summary>A cell in memory: one journal, the real folds, no actors. Nothing happens in it but what the test asks for.</summary>
internal sealed class FakeCell(TimeProvider clock) : ICell, IEventFeed
{
    public string? Trouble => null;

    private readonly Lock _lock = new();
    private readonly List<JournalEvent> _journal = [];
    private readonly Dictionary<string, VmRecord> _vms = [];
    private readonly Dictionary<string, HostRecord> _hosts = [];
    private readonly Dictionary<string, long> _sequence = [];
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>While set, no call is answered.</summary>
    public bool Silent { get; set; }

    /// <summary>While set, every call is refused with it.</summary>
    public CellProblem? Refuses { get; set; }

    /// <summary>While set, every call throws it.</summary>
    public Exception? Throws { get; set; }

    /// <summary>While set, the feed holds events back.</summary>
    public bool FeedHeld { get; set; }

    public int Creates;

    public Dictionary<string, FakeConsole> Consoles { get; } = [];

    public List<byte> Input { get; } = [];

    public IReadOnlyList<JournalEvent> Journal
    {
        get
        {
            lock (_lock)
                return [.. _journal];
        }
    }

    private static CellProblem NotFound => new("not_found", "No such microVM.");

    private Timestamp Now => clock.GetUtcNow().ToTimestamp();

    public void Vm(string vmId, IMessage stored)
    {
        lock (_lock)
        {
            _vms[vmId] = VmFold.Apply(_vms.GetValueOrDefault(vmId), stored);
            Store("vm/" + vmId, stored);
        }
    }

    public void Host(string hostId, IMessage stored)
    {
        lock (_lock)
        {
            _hosts[hostId] = HostFold.Apply(_hosts.GetValueOrDefault(hostId), stored);
            Store("host/" + hostId, stored);
        }
    }

    public void Connect(string hostId, uint cpus = 2, ulong memory = 4096) => Host(hostId, new HostConnected
    {
        At = Now, Id = hostId, AgentVersion = "0.1.0",
        Inventory = new Inventory
        {
            Cpus = cpus, MemoryMib = memory, AutoDriver = "qemu", Kernel = "6.1.0", Architecture = "x86_64",
            Drivers = { new DriverStatus { Name = "qemu", Usable = true, StockKernels = true, Detail = "emulation" } },
        },
    });

    public void Run(string vmId, string host = "rack1-7")
    {
        Vm(vmId, new VmPlaced { At = Now, Host = host, Epoch = 1 });
        Vm(vmId, new VmRunning { At = Now, Epoch = 1, Driver = "qemu", VmmPid = 4711 });
    }

    public void End(string vmId, int status) => Vm(vmId, new VmEnded
    {
        At = Now, Epoch = 1, Exit = new GuestExit { Status = status },
        Reason = new Reason { Code = "command_exited", Message = $"The command ended with status {status}." },
    });

    public void Gone(string vmId) => Vm(vmId, new VmDeleted { At = Now });

    public void ReleaseFeed()
    {
        lock (_lock)
        {
            FeedHeld = false;
            Signal();
        }
    }

    public Task<VmAnswer> CreateVmAsync(string vmId, VmSpec spec, CancellationToken cancellation, DateTimeOffset? notAfter = null) => AnswerAsync(() =>
    {
        Interlocked.Increment(ref Creates);
        if (!_vms.ContainsKey(vmId))
            Vm(vmId, new VmCreated { At = Now, Id = vmId, Spec = spec });
        return _vms[vmId].State == VmState.Deleted ? new VmAnswer(_vms[vmId].Clone(), NotFound) : new(_vms[vmId].Clone(), null);
    }, p => new(null, p), cancellation);

    public Task<VmAnswer> GetVmAsync(string vmId, CancellationToken cancellation) => VmAsync(vmId, _ => null, cancellation);

    public Task<VmAnswer> StopVmAsync(string vmId, TimeSpan? grace, CancellationToken cancellation) => VmAsync(vmId, vm =>
    {
        if (vm.State is VmState.Deleting)
            return new("wrong_state", "It is being deleted.");
        Vm(vmId, new VmStopRequested { At = Now, GraceMs = (uint)(grace ?? TimeSpan.FromSeconds(VmLimits.GraceSecondsOf(vm.Spec))).TotalMilliseconds });
        return null;
    }, cancellation);

    public Task<VmAnswer> SuspendVmAsync(string vmId, CancellationToken cancellation) => VmAsync(vmId, vm =>
    {
        if (vm.State != VmState.Running)
            return new("wrong_state", "It does not run.");
        Vm(vmId, new VmSuspendRequested { At = Now });
        return null;
    }, cancellation);

    public Task<VmAnswer> ResumeVmAsync(string vmId, CancellationToken cancellation) => VmAsync(vmId, vm =>
    {
        if (vm.State != VmState.Suspended)
            return new("wrong_state", "It is not suspended.");
        Vm(vmId, new VmResumeRequested { At = Now });
        return null;
    }, cancellation);

    public Task<VmAnswer> StartVmAsync(string vmId, CancellationToken cancellation) => VmAsync(vmId, vm =>
    {
        if (vm.State is not (VmState.Stopped or VmState.Failed))
            return new("wrong_state", "It is neither stopped nor failed.");
        Vm(vmId, new VmStartRequested { At = Now });
        return null;
    }, cancellation);

    public Task<VmAnswer> DeleteVmAsync(string vmId, CancellationToken cancellation) => VmAsync(vmId, vm =>
    {
        if (vm.State != VmState.Deleting)
            Vm(vmId, new VmDeleteRequested { At = Now });
        return null;
    }, cancellation);

    public Task<VmAnswer> LimitVmAsync(string vmId, string limiter, RateLimit? limit, CancellationToken cancellation) => VmAsync(vmId, vm =>
    {
        var changed = new VmLimitsChanged { At = Now, RateLimits = { vm.Spec.RateLimits } };
        changed.RateLimits.Remove(limiter);
        if (limit is not null)
            changed.RateLimits.Add(limiter, limit);
        Vm(vmId, changed);
        return null;
    }, cancellation);

    /// <summary>What hosts told.</summary>
    public List<LimiterFigure> Limiters { get; } = [];

    public async Task<LimitersAnswer> GetLimitersAsync(string vmId, CancellationToken cancellation)
    {
        var (vm, problem) = await GetVmAsync(vmId, cancellation);
        return new(vm, [.. Limiters.Where(limiter => limiter.VmId == vmId)], problem);
    }

    public async Task<VmAnswer> WaitVmAsync(string vmId, IReadOnlySet<VmState> states, TimeSpan timeout, CancellationToken cancellation)
    {
        var until = clock.GetUtcNow() + timeout;
        while (true)
        {
            Task changed;
            lock (_lock)
            {
                if (!_vms.TryGetValue(vmId, out var vm))
                    return new(null, NotFound);
                if (states.Contains(vm.State))
                    return new(vm.Clone(), null);
                if (clock.GetUtcNow() >= until)
                    return new(vm.Clone(), new("timeout", "It is still in another state."));
                changed = _changed.Task;
            }
            try
            {
                await changed.WaitAsync(until - clock.GetUtcNow(), clock, cancellation);
            }
            catch (TimeoutException)
            {
                continue;
            }
        }
    }

    public Task<PlacementReview> ReviewPlacementAsync(VmSpec spec, CancellationToken cancellation, bool briefly = false)
    {
        var index = new HostIndex();
        lock (_lock)
        {
            foreach (var host in _hosts.Values)
            {
                index.Update(
                    new HostView { HostId = host.Id, Connected = host.State == HostState.Connected, Inventory = host.Inventory, Version = host.Version, CpuRatio = 1, MemoryRatio = 1, Cordoned = host.Cordoned },
                    TimeSpan.Zero);
            }
        }
        return Task.FromResult(index.Review(spec, new Dictionary<string, string>(), briefly));
    }

    public Task<HostAnswer> GetHostAsync(string hostId, CancellationToken cancellation) => AnswerAsync(() =>
        _hosts.TryGetValue(hostId, out var host) ? new HostAnswer(host.Clone(), null) : new(null, new("not_found", "No such host.")),
        p => new(null, p), cancellation);

    public Task<LedgerAnswer> GetLedgerAsync(string hostId, int most, CancellationToken cancellation) => throw new NotSupportedException();

    public IAsyncEnumerable<JournalEvent> ReadOneAsync(string persistenceId, long after, int most, CancellationToken cancellation) => throw new NotSupportedException();

    public Task<HostAnswer> EnrolHostAsync(string hostId, byte[] keyHash, bool named, CancellationToken cancellation) => Task.FromResult(new HostAnswer(null, Refuses ?? throw new NotSupportedException()));

    public Task<HostAnswer> CordonHostAsync(string hostId, bool cordoned, CancellationToken cancellation) => AnswerAsync(() =>
    {
        if (!_hosts.TryGetValue(hostId, out var host))
            return new HostAnswer(null, new("not_found", "No such host."));
        Google.Protobuf.IMessage stored = cordoned ? new HostCordoned { At = Now } : new HostUncordoned { At = Now };
        Host(hostId, stored);
        return new(HostFold.Apply(host, stored), null);
    }, p => new(null, p), cancellation);

    public Task<HostAnswer> DrainHostAsync(string hostId, TimeSpan deadline, TimeSpan grace, CancellationToken cancellation) => AnswerAsync(() =>
    {
        if (!_hosts.TryGetValue(hostId, out var host))
            return new HostAnswer(null, new("not_found", "No such host."));
        var stored = new HostDrainBegan { At = Now, Deadline = Timestamp.FromDateTimeOffset(Now.ToDateTimeOffset() + deadline), GraceMs = (uint)grace.TotalMilliseconds };
        Host(hostId, stored);
        return new(HostFold.Apply(host, stored), null);
    }, p => new(null, p), cancellation);

    public Task<HostAnswer> RemoveHostAsync(string hostId, bool forced, CancellationToken cancellation) => AnswerAsync(() =>
    {
        if (!_hosts.TryGetValue(hostId, out var host))
            return new HostAnswer(null, new("not_found", "No such host."));
        if (host.State == HostState.Connected)
            return new(host.Clone(), new("host_connected", "Its agent is connected."));
        if (host.Vms > 0 && !forced)
            return new(host.Clone(), new("host_in_use", "It carries microVMs."));
        Host(hostId, new HostRemoved { At = Now });
        return new(_hosts[hostId].Clone(), null);
    }, p => new(null, p), cancellation);

    public VolumeBook Volumes { get; } = new();

    /// <summary>As the database does when it is away.</summary>
    public Exception? VolumesFail { get; set; }

    public Task<IReadOnlyList<VolumeRecord>> ListVolumesAsync(string? tenant, CancellationToken cancellation) => VolumesFail is { } fault ? Task.FromException<IReadOnlyList<VolumeRecord>>(fault) :
        Task.FromResult<IReadOnlyList<VolumeRecord>>([.. Volumes.All.Where(volume => tenant is null || volume.Tenant == tenant)]);

    public Task<VolumeRecord> ChangeVolumeAsync(IToVolumes change, CancellationToken cancellation)
    {
        var at = Timestamp.FromDateTimeOffset(clock.GetUtcNow());
        var (decision, tenant, name) = change switch
        {
            CreateVolume create => (Volumes.Create(create, at, Guid.NewGuid().ToString("n")), create.Tenant, create.Name),
            CopyVolume copy => (Volumes.Copy(copy, at, Guid.NewGuid().ToString("n")), copy.Tenant, copy.CopyTo),
            RemoveVolume remove => (Volumes.Remove(remove, at), remove.Tenant, remove.Name),
            _ => throw new NotSupportedException(),
        };
        if (decision.Problem is { } problem)
            throw new CellException(problem.Code, problem.Message);
        if (decision.Event is { } stored)
            Volumes.Apply(stored);
        return Task.FromResult(Volumes.Find(tenant, name)!);
    }

    public async Task<IConsoleStream> OpenConsoleAsync(string vmId, ulong? offset, bool follow, CancellationToken cancellation)
    {
        await FindAsync(vmId, cancellation);
        return Consoles.TryGetValue(vmId, out var console)
            ? console.Open(offset ?? 0)
            : throw new CellException("wrong_state", "It was never placed.");
    }

    /// <summary>What microVMs use.</summary>
    public ConcurrentDictionary<string, VmUse> Uses { get; } = [];

    public async Task<(VmAnswer Answer, VmUse? Use)> GetVmWithUseAsync(string vmId, CancellationToken cancellation) =>
        (await GetVmAsync(vmId, cancellation), Uses.GetValueOrDefault(vmId));

    /// <summary>What was asked for of logs, which are in <see cref="Consoles"/> as well.</summary>
    public ConcurrentQueue<(LogWish Wish, bool Follow)> LogWishes { get; } = [];

    public Task<IConsoleStream> OpenLogAsync(string vmId, LogWish wish, bool follow, CancellationToken cancellation)
    {
        LogWishes.Enqueue((wish, follow));
        return OpenConsoleAsync(vmId, 0, follow, cancellation);
    }

    /// <summary>Makes the guest's end of every stream that is opened.</summary>
    public Func<ReadOnlyMemory<byte>, IGuestStream>? Guest { get; set; }

    public async Task<IGuestStream> OpenGuestAsync(string vmId, ReadOnlyMemory<byte> request, CancellationToken cancellation)
    {
        await FindAsync(vmId, cancellation);
        return Guest?.Invoke(request) ?? throw new CellException("wrong_state", "It does not run.");
    }

    public async Task WriteConsoleAsync(string vmId, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        await FindAsync(vmId, cancellation);
        if (!Consoles.ContainsKey(vmId))
            throw new CellException("wrong_state", "It was never placed.");
        Input.AddRange(data.Span);
    }

    private async Task FindAsync(string vmId, CancellationToken cancellation)
    {
        if ((await GetVmAsync(vmId, cancellation)).Problem is { } problem)
            throw new CellException(problem.Code, problem.Message);
    }

    public async IAsyncEnumerable<JournalEvent> ReadAsync(long after, [EnumeratorCancellation] CancellationToken cancellation)
    {
        var at = 0;
        while (true)
        {
            Task changed;
            List<JournalEvent> read;
            lock (_lock)
            {
                changed = _changed.Task;
                read = FeedHeld ? [] : [.. _journal.Skip(at)];
                at += read.Count;
            }
            foreach (var entry in read.Where(e => e.Offset > after))
                yield return entry;
            await changed.WaitAsync(cancellation);
        }
    }

    public Task<JournalEvent?> FindAsync(long offset, CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult(_journal.Find(entry => entry.Offset == offset));
    }

    public Task<long> EndAsync(CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult(_journal.Count == 0 ? 0 : _journal[^1].Offset);
    }

    private Task<VmAnswer> VmAsync(string vmId, Func<VmRecord, CellProblem?> change, CancellationToken cancellation) => AnswerAsync(() =>
    {
        if (!_vms.TryGetValue(vmId, out var vm))
            return new VmAnswer(null, NotFound);
        if (vm.State == VmState.Deleted)
            return new(vm.Clone(), NotFound);
        return change(vm) is { } problem ? new(vm.Clone(), problem) : new(_vms[vmId].Clone(), null);
    }, p => new(null, p), cancellation);

    private async Task<T> AnswerAsync<T>(Func<T> answer, Func<CellProblem, T> refuse, CancellationToken cancellation)
    {
        await Task.Yield();
        if (Throws is { } fault)
            throw fault;
        if (Silent)
            await Task.Delay(Timeout.Infinite, cancellation);
        if (Refuses is { } problem)
            return refuse(problem);
        lock (_lock)
            return answer();
    }

    // Offsets have gaps, as in a journal that other things are stored in too.
    private void Store(string persistenceId, IMessage stored)
    {
        _sequence[persistenceId] = _sequence.GetValueOrDefault(persistenceId) + 1;
        _journal.Add(new((_journal.LastOrDefault()?.Offset ?? 0) + 1 + _journal.Count % 3, persistenceId, _sequence[persistenceId], stored));
        Signal();
    }

    private void Signal() => Interlocked.Exchange(ref _changed, new(TaskCreationOptions.RunContinuationsAsynchronously)).TrySetResult();
}

/// <summary>A console that the test writes into.</summary>
internal sealed class FakeConsole
{
    private readonly Channel<byte[]> _output = Channel.CreateUnbounded<byte[]>();

    public int Taken;
    public int Closed;

    public ulong First { get; set; }

    /// <summary>Thrown to the reader after what was written.</summary>
    public void Break(CellException fault) => _output.Writer.Complete(fault);

    public void Write(byte[] output) => _output.Writer.TryWrite(output);

    public void End() => _output.Writer.Complete();

    public IConsoleStream Open(ulong offset) => new Stream(this, Math.Max(offset, First));

    private sealed class Stream(FakeConsole console, ulong offset) : IConsoleStream
    {
        public ulong Offset => offset;

        public async IAsyncEnumerable<ReadOnlyMemory<byte>> ReadAsync([EnumeratorCancellation] CancellationToken cancellation)
        {
            while (true)
            {
                byte[] chunk;
                try
                {
                    chunk = await console._output.Reader.ReadAsync(cancellation);
                }
                catch (ChannelClosedException end) when (end.InnerException is CellException fault)
                {
                    throw fault;
                }
                catch (ChannelClosedException)
                {
                    yield break;
                }
                Interlocked.Increment(ref console.Taken);
                yield return chunk;
            }
        }

        public ValueTask DisposeAsync()
        {
            Interlocked.Increment(ref console.Closed);
            return ValueTask.CompletedTask;
        }
    }
}
