using System.Collections.Concurrent;
using System.Threading.Channels;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Tests.Sessions;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Grpc.Core;
using ICell = Fleet.Scheduler.Cell.ICell;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>
/// A host agent in memory that speaks the real service: it remembers its microVMs over streams as the real one does over restarts,
/// repeats reports until they are acknowledged, and can be told to misbehave.
/// </summary>
internal sealed class FakeAgent(string hostId) : IAsyncDisposable
{
    private readonly ConcurrentDictionary<string, FakeVm> _vms = new(StringComparer.Ordinal);
    private readonly ConcurrentQueue<SchedulerMessage> _received = new();
    private Channel<HostMessage>? _toScheduler;
    private CancellationTokenSource _stream = new();
    private Task _running = Task.CompletedTask;
    private volatile bool _welcomed;

    public string HostId => hostId;

    public Inventory Inventory { get; set; } = Simulated(cpus: 8, memoryMib: 16_384);

    /// <summary>What its Hello says of it; null: nothing.</summary>
    public PressureReport? Pressure { get; set; }

    /// <summary>What it does with an order; null: as a good agent does.</summary>
    public Func<SchedulerMessage, bool>? Swallow { get; set; }

    /// <summary>What its launches fail by; null: they work.</summary>
    public Reason? LaunchFault { get; set; }

    /// <summary>Why it can't suspend what runs; null: it can.</summary>
    public Reason? SuspendFault { get; set; }

    public static readonly SnapshotDigest Digest = new() { StateSha256 = Google.Protobuf.ByteString.CopyFrom(new byte[32]), MemorySha256 = Google.Protobuf.ByteString.CopyFrom(new byte[32]) };

    public TimeSpan Heartbeat { get; set; } = TimeSpan.FromMilliseconds(100);

    public bool Beats { get; set; } = true;

    public bool Fenced { get; init; }

    /// <summary>Of its state directory, and of its machine's start.</summary>
    public (string State, string Boot) Of { get; init; } = ("state-1", "boot-1");

    /// <summary>Of the certificate that it shows; 0: the host never was enrolled, as those of most tests.</summary>
    public uint Enrolment { get; set; }

    /// <summary>The host that its certificate names, if that is another.</summary>
    public string? Certified { get; set; }

    /// <summary>Joins, as one must who was removed.</summary>
    public async Task EnrolAsync(ICell cell)
    {
        var answer = await cell.EnrolHostAsync(hostId, [1, 2, 3], named: false, CancellationToken.None);
        Xunit.Assert.Null(answer.Problem);
        Enrolment = answer.Host!.Enrolment;
    }

    private long _beats;

    public IReadOnlyCollection<SchedulerMessage> Received => _received;

    public bool IsOpen => _welcomed && !_running.IsCompleted;

    /// <summary>Its stream has ended, or none was opened.</summary>
    public bool IsOver => _running.IsCompleted;

    public Refusal? Refusal => _received.LastOrDefault(message => message.Refusal is not null)?.Refusal;

    public FakeVm? Find(string vmId) => _vms.GetValueOrDefault(vmId);

    public int VmCount => _vms.Count;

    internal sealed class FakeVm
    {
        public required ulong Epoch { get; init; }
        public HostVmState State { get; set; }
        public ulong Sequence { get; set; }
        public ulong Acknowledged { get; set; }
        public int Starts { get; set; }
        public ulong Limits { get; set; }
        public VmReport? Last { get; set; }
    }

    public static Inventory Simulated(uint cpus, ulong memoryMib) => new()
    {
        Cpus = cpus,
        MemoryMib = memoryMib,
        AutoDriver = "qemu",
        Kernel = "6.1.0",
        Architecture = "x86_64",
        Drivers =
        {
            new DriverStatus { Name = "qemu", Usable = true, StockKernels = true },
            new DriverStatus { Name = "kvm", Usable = true, StockKernels = false },
            new DriverStatus { Name = "simulated", Usable = true },
        },
    };

    public Hello Hello()
    {
        var hello = new Hello { HostId = hostId, Inventory = Inventory, AgentVersion = "0.1.0", BootId = Of.Boot, StateId = Of.State, AgentInstance = Guid.NewGuid().ToString("n"), Fenced = Fenced, Pressure = Pressure };
        foreach (var vm in _vms.Values)
        {
            if (vm.Last is not null)
                hello.Vms.Add(vm.Last.Clone());
        }
        return hello;
    }

    public async Task ConnectAsync(HostLinkService service)
    {
        Open(service);
        Send(new HostMessage { Hello = Hello() });
        await Eventually.TrueAsync(() => _welcomed, () => $"{hostId} was not welcomed: {Refusal}");
    }

    /// <summary>Opens the stream without saying anything.</summary>
    public void Open(HostLinkService service)
    {
        _welcomed = false;
        _stream = new CancellationTokenSource();
        var toScheduler = Channel.CreateUnbounded<HostMessage>();
        _toScheduler = toScheduler;
        _running = RunAsync(service, toScheduler, _stream);
    }

    private async Task RunAsync(HostLinkService service, Channel<HostMessage> toScheduler, CancellationTokenSource stream)
    {
        using var beat = new Timer(_ => OnBeat(toScheduler), null, Heartbeat, Heartbeat);
        try
        {
            await service.Connect(new Reader(toScheduler.Reader), new Writer(this, stream.Token), new FakeCallContext("test", stream.Token)
            {
                UserState = { [LinkPeer.Key] = new CertificateVerdict(new(CertificateRole.Host, Certified ?? hostId, Enrolment, default, default), "", "") },
            });
        }
        catch (Exception fault) when (fault is OperationCanceledException or RpcException)
        {
            // The stream ended, which IsOpen shows.
        }
    }

    private void OnBeat(Channel<HostMessage> toScheduler)
    {
        if (!_welcomed || !Beats)
            return;
        toScheduler.Writer.TryWrite(new HostMessage { Heartbeat = new Heartbeat { Sequence = (ulong)Interlocked.Increment(ref _beats) } });
        foreach (var vm in _vms.Values)
        {
            lock (vm)
            {
                if (vm.Last is { } last && vm.Acknowledged < vm.Sequence)
                    toScheduler.Writer.TryWrite(new HostMessage { Report = last.Clone() });
            }
        }
    }

    public void Send(HostMessage message) => _toScheduler!.Writer.TryWrite(message);

    /// <summary>Cuts the stream without a word.</summary>
    public async Task CutAsync()
    {
        await _stream.CancelAsync();
        await _running;
        _welcomed = false;
    }

    public Task EndedAsync() => _running.WaitAsync(TimeSpan.FromSeconds(20));

    public void Forget(string vmId) => _vms.TryRemove(vmId, out _);

    public void Report(string vmId, HostVmState state, Reason? reason = null, GuestExit? exit = null, bool neverRan = false, SuspendFailure? suspendFailed = null, SnapshotDigest? snapshot = null)
    {
        var vm = _vms[vmId];
        lock (vm)
        {
            vm.State = state;
            vm.Last = new VmReport
            {
                VmId = vmId,
                Epoch = vm.Epoch,
                Sequence = ++vm.Sequence,
                State = state,
                Reason = reason,
                Exit = exit,
                Driver = "simulated",
                VmmPid = state == HostVmState.Running ? 4711 : 0,
                LimitsRevision = vm.Limits,
                NeverRan = neverRan,
                SuspendFailed = suspendFailed,
                Snapshot = snapshot,
            };
            Send(new HostMessage { Report = vm.Last.Clone() });
        }
    }

    private void OnMessage(SchedulerMessage message)
    {
        _received.Enqueue(message);
        if (Swallow?.Invoke(message) == true)
            return;
        switch (message.BodyCase)
        {
            case SchedulerMessage.BodyOneofCase.Welcome:
                foreach (var unknown in message.Welcome.Unknown)
                    Remove(unknown.VmId, unknown.Epoch);
                _welcomed = true;
                break;
            case SchedulerMessage.BodyOneofCase.Launch:
                Launch(message.Launch);
                break;
            case SchedulerMessage.BodyOneofCase.Stop when Find(message.Stop.VmId) is { State: not HostVmState.Suspended } vm && vm.Epoch == message.Stop.Epoch:
                if (vm.State == HostVmState.Running)
                    Report(message.Stop.VmId, HostVmState.Ended, new Reason { Code = "stop_requested", Message = "Stopped." });
                break;
            case SchedulerMessage.BodyOneofCase.Stop when Find(message.Stop.VmId) is { State: HostVmState.Suspended } saved && saved.Epoch == message.Stop.Epoch:
                Report(message.Stop.VmId, HostVmState.Ended, new Reason { Code = "stop_requested", Message = "Stopped." });
                break;
            case SchedulerMessage.BodyOneofCase.Suspend when Find(message.Suspend.VmId) is { State: HostVmState.Running } vm && vm.Epoch == message.Suspend.Epoch:
                if (SuspendFault is { } why)
                    Report(message.Suspend.VmId, HostVmState.Running, suspendFailed: new SuspendFailure { Attempt = message.Suspend.Attempt, Reason = why });
                else
                    Report(message.Suspend.VmId, HostVmState.Suspended, snapshot: message.Suspend.ForHost.Length == 0 ? null : Digest);
                break;
            case SchedulerMessage.BodyOneofCase.SetLimits when Find(message.SetLimits.VmId) is { State: HostVmState.Running } vm && vm.Epoch == message.SetLimits.Epoch:
                vm.Limits = Math.Max(vm.Limits, message.SetLimits.Revision);
                Report(message.SetLimits.VmId, HostVmState.Running);
                break;
            case SchedulerMessage.BodyOneofCase.ConsoleInput:
                Send(new HostMessage { InputTaken = new ConsoleInputTaken { VmId = message.ConsoleInput.VmId, Messages = 1 } });
                break;
            case SchedulerMessage.BodyOneofCase.Remove:
                Remove(message.Remove.VmId, message.Remove.Epoch);
                break;
            case SchedulerMessage.BodyOneofCase.ReportAck when Find(message.ReportAck.VmId) is { } vm && vm.Epoch == message.ReportAck.Epoch:
                lock (vm)
                    vm.Acknowledged = Math.Max(vm.Acknowledged, message.ReportAck.Sequence);
                if (vm.State == HostVmState.Removed)
                    _vms.TryRemove(message.ReportAck.VmId, out _);
                break;
        }
    }

    private void Launch(LaunchVm launch)
    {
        // Its remains are gone; only the word of it may still be on its way.
        var before = Find(launch.VmId);
        if (before is { State: HostVmState.Removed } || (launch.SnapshotEpoch > 0 && before is { State: HostVmState.Suspended or HostVmState.Failed } && before.Epoch < launch.Epoch))
            _vms.TryRemove(launch.VmId, out _);
        var vm = _vms.GetOrAdd(launch.VmId, _ => new FakeVm { Epoch = launch.Epoch });
        if (vm.Epoch != launch.Epoch)
            throw new InvalidOperationException($"{launch.VmId} epoch {launch.Epoch} was launched beside epoch {vm.Epoch}.");
        if (vm.State is HostVmState.Unspecified)
        {
            vm.Starts++;
            vm.Limits = launch.LimitsRevision;
            Report(launch.VmId, HostVmState.Launching);
            if (LaunchFault is { } fault)
                Report(launch.VmId, HostVmState.Failed, fault, neverRan: true);
            else
                Report(launch.VmId, HostVmState.Running);
        }
    }

    private void Remove(string vmId, ulong epoch)
    {
        if (Find(vmId) is not { } vm)
            return;
        if (vm.Epoch == epoch)
            Report(vmId, HostVmState.Removed);
        else if (vm.Epoch > epoch)
            Send(new HostMessage { Report = new VmReport { VmId = vmId, Epoch = epoch, Sequence = 1, State = HostVmState.Removed, Driver = "simulated" } });
    }

    public async ValueTask DisposeAsync()
    {
        await CutAsync();
        _stream.Dispose();
    }

    private sealed class Reader(ChannelReader<HostMessage> messages) : IAsyncStreamReader<HostMessage>
    {
        public HostMessage Current { get; private set; } = new();

        public async Task<bool> MoveNext(CancellationToken cancellationToken)
        {
            if (!await messages.WaitToReadAsync(cancellationToken))
                return false;
            Current = await messages.ReadAsync(cancellationToken);
            return true;
        }
    }

    private sealed class Writer(FakeAgent agent, CancellationToken stream) : IServerStreamWriter<SchedulerMessage>
    {
        public WriteOptions? WriteOptions { get; set; }

        public Task WriteAsync(SchedulerMessage message)
        {
            stream.ThrowIfCancellationRequested();
            agent.OnMessage(message);
            return Task.CompletedTask;
        }

        public Task WriteAsync(SchedulerMessage message, CancellationToken cancellationToken) => WriteAsync(message);
    }
}
