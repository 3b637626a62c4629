using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Chaos.Checking;

/// <summary>
/// Hosts never promise more than their caps, nor run more than that; and at the end every reservation has its microVM and every microVM
/// that is placed its reservation; what is left of a microVM that ended goes with it. The sums are the checker's own: the ledger is what is being checked.
/// </summary>
internal static class Room
{
    public const string BeyondCaps = "beyond_caps";
    public const string RanBeyondCaps = "ran_beyond_caps";
    public const string ReservedForNobody = "reserved_for_nobody";
    public const string NoReservation = "no_reservation";

    public static IEnumerable<Violation> Check(History history, JournalIndex journal)
    {
        var ledgers = new Dictionary<string, Ledger>(StringComparer.Ordinal);
        foreach (var (host, events) in journal.Hosts)
        {
            var ledger = ledgers[host] = new Ledger();
            foreach (var stored in events)
            {
                ledger.Take(stored.Event);
                if (stored.Event is HostReserved && history.Caps.TryGetValue(host, out var caps) && (ledger.Cpus > caps.Cpus || ledger.MemoryMib > caps.MemoryMib))
                    yield return new(BeyondCaps, host, $"at event {stored.SequenceNumber} it has promised {ledger.Cpus} vCPUs and {ledger.MemoryMib} MiB; its caps are {caps.Cpus} and {caps.MemoryMib}");
            }

            foreach (var (vm, epoch) in ledger.Held)
            {
                if (journal.Records.GetValueOrDefault(vm) is not { } record || record.Host != host || record.Epoch != epoch || !HoldsRoom(record.State))
                    yield return new(ReservedForNobody, host, $"it holds room for {vm} under epoch {epoch}, which is {Told(journal.Records.GetValueOrDefault(vm))}");
            }
        }

        // A host that is away can't say that it has cleaned up.
        foreach (var (host, ledger) in ledgers.Where(of => of.Value.Connected))
        {
            foreach (var (vm, epoch) in ledger.Remains)
            {
                if (journal.Records.GetValueOrDefault(vm) is not { } record || record.Host != host || record.Epoch != epoch || record.State == VmState.Deleted)
                    yield return new(ReservedForNobody, host, $"it keeps what is left of {vm} under epoch {epoch}, which is {Told(journal.Records.GetValueOrDefault(vm))}");
            }
        }

        foreach (var record in journal.Records.Values.Where(record => record.State is VmState.Starting or VmState.Running or VmState.Stopping))
        {
            if (!ledgers.TryGetValue(record.Host, out var ledger) || !ledger.Held.Contains((record.Id, record.Epoch)))
                yield return new(NoReservation, record.Id, $"it is {Told(record)}, and that host holds no room for it");
        }

        foreach (var violation in Ran(history, journal))
            yield return violation;
    }

    private static bool HoldsRoom(VmState state) => state is VmState.Starting or VmState.Running or VmState.Stopping or VmState.Deleting;

    private static string Told(VmRecord? record) => record is null ? "unknown" : $"{record.State} on '{record.Host}' under epoch {record.Epoch}";

    /// <summary>By what was seen to run, whatever was promised.</summary>
    private static IEnumerable<Violation> Ran(History history, JournalIndex journal)
    {
        foreach (var runs in history.Runs.GroupBy(run => run.Host, StringComparer.Ordinal))
        {
            if (!history.Caps.TryGetValue(runs.Key, out var caps))
                continue;
            // Ends before beginnings at the same moment.
            var steps = runs
                .Where(run => run.SureToMs > run.FromMs)
                .SelectMany(run => journal.SpecOf(run.Vm) is { } spec
                    ? new[] { (At: run.FromMs, Begins: 1, Spec: spec), (At: run.SureToMs, Begins: -1, Spec: spec) }
                    : [])
                .OrderBy(step => step.At).ThenBy(step => step.Begins);
            long cpus = 0, memory = 0;
            foreach (var (at, begins, spec) in steps)
            {
                cpus += begins * spec.Cpus;
                memory += begins * spec.MemoryMib;
                if (begins < 0 || ((ulong)cpus <= caps.Cpus && (ulong)memory <= caps.MemoryMib))
                    continue;
                yield return new(RanBeyondCaps, runs.Key, $"at {at} ms it ran {cpus} vCPUs and {memory} MiB; its caps are {caps.Cpus} and {caps.MemoryMib}");
                break;
            }
        }
    }
}

/// <summary>What one host has promised, as far as its events were told.</summary>
internal sealed class Ledger
{
    private readonly Dictionary<(string Vm, ulong Epoch), (uint Cpus, ulong MemoryMib)> _held = [];

    private readonly HashSet<(string Vm, ulong Epoch)> _remains = [];

    public ulong Cpus { get; private set; }

    public ulong MemoryMib { get; private set; }

    public bool Connected { get; private set; }

    public bool Cordoned { get; private set; }

    /// <summary>Launches failed there: it takes nothing new.</summary>
    public bool Quarantined { get; private set; }

    /// <summary>Its machine is short of something: it takes nothing new.</summary>
    public bool Pressed { get; private set; }

    public IReadOnlyCollection<(string Vm, ulong Epoch)> Held => _held.Keys;

    /// <summary>Vacated, and not released since.</summary>
    public IReadOnlyCollection<(string Vm, ulong Epoch)> Remains => _remains;

    public void Take(object stored)
    {
        switch (stored)
        {
            case HostConnected:
                Connected = true;
                Pressed = false;
                break;
            case HostDisconnected or HostRemoved:
                Connected = Pressed = false;
                break;
            case HostPressureChanged { Pressure: { } pressure }:
                Pressed = pressure.Cpu > PressureRung.Calm || pressure.Memory > PressureRung.Calm;
                break;
            case HostCordoned or HostDrainBegan:
                Cordoned = true;
                break;
            case HostUncordoned:
                Cordoned = Quarantined = false;
                break;
            case HostQuarantined:
                Quarantined = true;
                break;
            case HostQuarantineLifted:
                Quarantined = false;
                break;
            case HostReserved reserved when _held.TryAdd((reserved.VmId, reserved.Epoch), (reserved.Cpus, reserved.MemoryMib)):
                Cpus += reserved.Cpus;
                MemoryMib += reserved.MemoryMib;
                break;
            // It may still run, in room that is another's from now on.
            case HostPreempted preempted when _held.TryGetValue((preempted.VmId, preempted.Epoch), out var taken):
                _held[(preempted.VmId, preempted.Epoch)] = default;
                Cpus -= taken.Cpus;
                MemoryMib -= taken.MemoryMib;
                break;
            case HostVacated vacated:
                GiveBack(vacated.VmId, vacated.Epoch);
                _remains.Add((vacated.VmId, vacated.Epoch));
                break;
            case HostReleased released:
                GiveBack(released.VmId, released.Epoch);
                _remains.Remove((released.VmId, released.Epoch));
                break;
            case HostLost:
                Connected = false;
                // Its agent has to come back before anything of them can go.
                _remains.UnionWith(_held.Keys);
                _held.Clear();
                (Cpus, MemoryMib) = (0, 0);
                break;
        }
    }

    /// <summary>Whether one more fits now.</summary>
    public bool Takes(VmSpec spec, HostCaps caps) =>
        Connected && !Cordoned && !Quarantined && !Pressed && Cpus + spec.Cpus <= caps.Cpus && MemoryMib + spec.MemoryMib <= caps.MemoryMib;

    private void GiveBack(string vm, ulong epoch)
    {
        if (!_held.Remove((vm, epoch), out var room))
            return;
        Cpus -= room.Cpus;
        MemoryMib -= room.MemoryMib;
    }
}
