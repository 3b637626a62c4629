using Fleet.Chaos.Checking;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Google.Protobuf;

namespace Fleet.Chaos.Tests.Checking;

/// <summary>Writes the history of a small fleet in which all goes well, unless it is told otherwise. The clock moves by what is told.</summary>
internal sealed class Story
{
    public const long LeaseMs = 20_000;

    private readonly Dictionary<string, long> _sequence = [];
    private readonly List<StoredEvent> _journal = [];
    private readonly List<ClientRequest> _requests = [];
    private readonly List<Silence> _silences = [];
    private readonly List<Strike> _strikes = [];
    private readonly List<Outage> _outages = [];
    private readonly HashSet<(string Vm, ulong Epoch)> _broken = [];
    private bool _ofSeveral;
    private readonly Dictionary<string, HostCaps> _caps = [];
    private readonly Dictionary<string, Vm> _vms = [];
    private readonly HashSet<string> _silent = [];
    private readonly List<(string Host, string Vm, ulong Epoch)> _left = [];

    private sealed class Vm
    {
        public required uint Cpus { get; init; }
        public required bool Strict { get; init; }
        public string? Host { get; set; }
        public ulong Epoch { get; set; }
        public VmState State { get; set; } = VmState.Pending;
        public string? Reason { get; set; }
    }

    public long Now { get; private set; } = 1_000_000;

    /// <summary>May be changed by a test before <see cref="Tell"/>.</summary>
    public List<RunInterval> Runs { get; } = [];

    public List<Strike> Strikes => _strikes;

    public List<Outage> Outages => _outages;

    public List<Sighting> Sightings { get; } = [];

    public List<Recount> Recounts { get; } = [];

    public List<StoredEvent> Journal => _journal;

    public List<ClientRequest> Requests => _requests;

    /// <summary>Changes what the API says at the end.</summary>
    public List<FinalVm> Final { get; } = [];

    public IEnumerable<string> Hosts => _caps.Keys;

    public IEnumerable<string> Vms => _vms.Keys;

    public Story After(long ms)
    {
        Now += ms;
        return this;
    }

    public Story Host(string id, uint cpus = 4)
    {
        _caps[id] = new HostCaps(cpus, 1024);
        return Store($"host/{id}", new HostConnected { Id = id, Inventory = new Inventory { Cpus = cpus, MemoryMib = 1024 } });
    }

    public Story Create(string id, uint cpus = 1, bool strict = true)
    {
        _vms[id] = new Vm { Cpus = cpus, Strict = strict };
        // Nobody hears the first answer.
        _requests.Add(new(Verb.Create, $"key-{id}", null, Now, null, 0));
        Store($"vm/{id}", new VmCreated { Id = id, Spec = new VmSpec { Name = $"key-{id}", Cpus = cpus, MemoryMib = 32 } });
        _requests.Add(new(Verb.Create, $"key-{id}", id, Now + 5, Now + 9, 201));
        return After(10);
    }

    public bool HasRoom(string vm, string host) => Held(host) + _vms[vm].Cpus <= (long)_caps[host].Cpus && !_silent.Contains(host);

    public bool Is(string vm, VmState state) => _vms[vm].State == state;

    public string? HostOf(string vm) => _vms[vm].Host;

    public Story Place(string id, string host)
    {
        var vm = _vms[id];
        vm.Epoch++;
        (vm.Host, vm.State, vm.Reason) = (host, VmState.Running, null);
        Store($"host/{host}", new HostReserved { VmId = id, Epoch = vm.Epoch, Cpus = vm.Cpus, MemoryMib = 32 });
        Store($"vm/{id}", new VmPlaced { Host = host, Epoch = vm.Epoch });
        Runs.Add(new(id, vm.Epoch, $"{id}.{vm.Epoch}.1", host, vm.Strict, Now + 1, long.MaxValue, long.MaxValue));
        Store($"vm/{id}", new VmRunning { Epoch = vm.Epoch });
        return After(10);
    }

    public Story Wait(string id)
    {
        (_vms[id].State, _vms[id].Reason) = (VmState.Unplaced, "no_capacity");
        return Store($"vm/{id}", new VmUnplaced { Reason = new Reason { Code = "no_capacity" } });
    }

    public Story Stop(string id)
    {
        var vm = _vms[id];
        _requests.Add(new(Verb.Stop, "", id, Now, Now + 3, 202));
        Store($"vm/{id}", new VmStopRequested());
        EndRun(id, stood: true);
        (vm.State, vm.Reason) = (VmState.Stopped, "stop_requested");
        Store($"vm/{id}", new VmEnded { Epoch = vm.Epoch, Reason = new Reason { Code = "stop_requested" } });
        Store($"host/{vm.Host}", new HostVacated { VmId = id, Epoch = vm.Epoch, Cpus = vm.Cpus, MemoryMib = 32 });
        return After(10);
    }

    public Story Suspend(string id)
    {
        var vm = _vms[id];
        _requests.Add(new(Verb.Suspend, "", id, Now, Now + 3, 202));
        Store($"vm/{id}", new VmSuspendRequested());
        EndRun(id, stood: true);
        Say(id, VmState.Suspended, null).Store($"vm/{id}", new VmSuspended { Epoch = vm.Epoch });
        return Store($"host/{vm.Host}", new HostVacated { VmId = id, Epoch = vm.Epoch, Cpus = vm.Cpus, MemoryMib = 32, Suspended = true });
    }

    public Story Resume(string id, string host)
    {
        _requests.Add(new(Verb.Resume, "", id, Now, Now + 3, 202));
        var epoch = _vms[id].Epoch;
        Store($"vm/{id}", new VmResumeRequested()).Place(id, host);
        return Store($"host/{host}", new HostReleased { VmId = id, Epoch = epoch });
    }

    /// <summary>What the API says of it from now on.</summary>
    public Story Say(string id, VmState state, string? reason)
    {
        (_vms[id].State, _vms[id].Reason) = (state, reason);
        return this;
    }

    public Story Delete(string id)
    {
        var vm = _vms[id];
        _requests.Add(new(Verb.Delete, "", id, Now, Now + 3, 202));
        Store($"vm/{id}", new VmDeleteRequested());
        var runs = vm.State == VmState.Running;
        EndRun(id, stood: true);
        if (vm.Host is { } host)
            Store($"host/{host}", new HostReleased { VmId = id, Epoch = vm.Epoch, WasReserved = runs, Cpus = vm.Cpus, MemoryMib = 32 });
        Store($"vm/{id}", new VmDeleted());
        _vms.Remove(id);
        return After(10);
    }

    /// <summary>A host falls silent, dead or cut off, and is given up; its microVMs wait for a place.</summary>
    public Story Lose(string host, bool dead)
    {
        var from = Now;
        _silent.Add(host);
        var lost = _vms.Where(vm => vm.Value is { State: VmState.Running } && vm.Value.Host == host).ToList();
        if (dead)
        {
            lost.ForEach(vm => EndRun(vm.Key, stood: false));
            _broken.UnionWith(lost.Select(vm => (vm.Key, vm.Value.Epoch)));
            _strikes.Add(new(StrikeKind.PowerOff, host, Now, Now));
        }
        After(LeaseMs);
        if (!dead)
            lost.ForEach(vm => EndRun(vm.Key, stood: true));
        After(2_000);
        Store($"host/{host}", new HostLost());
        foreach (var (id, vm) in lost)
        {
            _left.Add((host, id, vm.Epoch));
            (vm.Host, vm.State) = (null, VmState.Pending);
            Store($"vm/{id}", new VmLost { Epoch = vm.Epoch, Reason = new Reason { Code = "host_lost" } });
        }

        _silences.Add(new(host, from, Now));
        return this;
    }

    public Story Return(string host)
    {
        _silent.Remove(host);
        Store($"host/{host}", new HostConnected { Id = host });
        foreach (var (_, vm, epoch) in _left.Where(left => left.Host == host))
            Store($"host/{host}", new HostReleased { VmId = vm, Epoch = epoch });
        _left.RemoveAll(left => left.Host == host);
        return this;
    }

    /// <summary>Its VMM is killed on purpose.</summary>
    public Story Kill(string id)
    {
        var vm = _vms[id];
        _broken.Add((id, vm.Epoch));
        EndRun(id, stood: false);
        _strikes.Add(new(StrikeKind.KillVmm, vm.Host!, Now, Now) { Vm = id, Epoch = vm.Epoch });
        (vm.State, vm.Reason) = (VmState.Failed, "vmm_killed");
        Store($"vm/{id}", new VmFailed { Epoch = vm.Epoch, Reason = new Reason { Code = "vmm_killed" } });
        return Store($"host/{vm.Host}", new HostVacated { VmId = id, Epoch = vm.Epoch, Cpus = vm.Cpus, MemoryMib = 32 });
    }

    /// <summary>The agent says that it failed, whatever the truth.</summary>
    public Story Fail(string id)
    {
        var vm = _vms[id];
        (vm.State, vm.Reason) = (VmState.Failed, "vmm_failed");
        Store($"vm/{id}", new VmFailed { Epoch = vm.Epoch, Reason = new Reason { Code = "vmm_failed" } });
        return vm.Host is null ? this : Store($"host/{vm.Host}", new HostVacated { VmId = id, Epoch = vm.Epoch, Cpus = vm.Cpus, MemoryMib = 32 });
    }

    /// <summary>The host does not speak for a while, and nobody gives it up.</summary>
    public Story Hush(string host, long ms)
    {
        _silences.Add(new(host, Now, Now + ms));
        return After(ms);
    }

    public Story Outage(long ms)
    {
        _outages.Add(new("scheduler-0", Now, Now + ms));
        return After(ms);
    }

    /// <summary>The control plane is of several nodes.</summary>
    public Story OfSeveral()
    {
        _ofSeveral = true;
        return this;
    }

    /// <summary>The actor of <c>vm/…</c> or <c>host/…</c> is on that node at that moment.</summary>
    public Story See(string actor, string node, long atMs)
    {
        var id = actor[(actor.IndexOf('/', StringComparison.Ordinal) + 1)..];
        var (region, shard) = actor.StartsWith("vm/", StringComparison.Ordinal) ? Sighting.ShardOfVm(id) : Sighting.ShardOfHost(id);
        Sightings.Add(new(region, shard, node, atMs, atMs + 4_000));
        return this;
    }

    public Story Ask(Verb verb, string? vm, int status, string key = "")
    {
        _requests.Add(new(verb, key, vm, Now, status == 0 ? null : Now + 1, status));
        return this;
    }

    public Story Store(string persistenceId, IMessage stored)
    {
        _sequence[persistenceId] = _sequence.GetValueOrDefault(persistenceId) + 1;
        _journal.Add(new(_journal.Count + 1, persistenceId, _sequence[persistenceId], stored, Now));
        return After(1);
    }

    /// <summary>The VMM's last sign: dead, or standing still.</summary>
    public Story EndRun(string id, bool stood)
    {
        var at = Runs.FindIndex(run => run.Vm == id && run.PossibleToMs == long.MaxValue);
        if (at >= 0)
            Runs[at] = Runs[at] with { SureToMs = Now, PossibleToMs = stood ? Now : Now + RunLog.AliveEveryMs, Stood = stood, Open = !stood };
        return this;
    }

    /// <summary>What the checker gets; the fleet comes to rest now.</summary>
    public History Tell() => new()
    {
        Runs = [.. Runs.Select(run => run.PossibleToMs == long.MaxValue ? run with { SureToMs = Now, PossibleToMs = Now + RunLog.AliveEveryMs, Open = true } : run)],
        Requests = _requests,
        Journal = _journal,
        Final = [.. _vms.Where(vm => Final.All(said => said.Id != vm.Key)).Select(vm => new FinalVm(vm.Key, vm.Value.State, vm.Value.Reason, vm.Value.Host, vm.Value.Epoch)), .. Final],
        Caps = _caps,
        Silences = _silences,
        Strikes = _strikes,
        Outages = _outages,
        Sightings = Sightings,
        Recounts = Recounts,
        OfSeveral = _ofSeveral,
        Broken = _broken,
        Lease = TimeSpan.FromMilliseconds(LeaseMs),
        EndMs = Now,
    };

    public Verdict Check() => Checker.Check(Tell());

    private long Held(string host) => _vms.Values.Where(vm => vm.State == VmState.Running && vm.Host == host).Sum(vm => vm.Cpus);
}
