using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;

namespace Fleet.Chaos.Checking;

/// <summary>The journal by microVM and by host, and what the events add up to.</summary>
internal sealed class JournalIndex
{
    private const string VmPrefix = "vm/";
    private const string HostPrefix = "host/";

    private JournalIndex(Dictionary<string, List<StoredEvent>> vms, Dictionary<string, List<StoredEvent>> hosts)
    {
        (Vms, Hosts) = (vms, hosts);
        foreach (var (id, events) in vms)
        {
            VmRecord? record = null;
            var given = new HashSet<ulong>();
            foreach (var stored in events.TakeWhile(stored => record is not null || stored.Event is VmCreated))
            {
                record = VmFold.Apply(record, stored.Event);
                if (PlaceOf(stored.Event) is var (host, epoch))
                    Placements[(id, epoch)] = host;
                if (stored.Event is VmLost lost)
                    given.Add(lost.Epoch);
                // What was lost before may be called ended by somebody who never saw it end.
                if (EndedEpoch(stored.Event) is { } ended && !given.Contains(ended))
                    Ended.Add((id, ended));
            }

            if (record is not null)
                Records[id] = record;
        }
    }

    public IReadOnlyDictionary<string, List<StoredEvent>> Vms { get; }

    public IReadOnlyDictionary<string, List<StoredEvent>> Hosts { get; }

    /// <summary>What each microVM is by its events.</summary>
    public Dictionary<string, VmRecord> Records { get; } = [];

    /// <summary>Which host a microVM was placed on under which epoch.</summary>
    public Dictionary<(string Vm, ulong Epoch), string> Placements { get; } = [];

    /// <summary>Launches whose agent said that nothing of them runs any more.</summary>
    public HashSet<(string Vm, ulong Epoch)> Ended { get; } = [];

    public VmSpec? SpecOf(string vm) => Records.GetValueOrDefault(vm)?.Spec;

    public static JournalIndex Of(IReadOnlyList<StoredEvent> journal) => new(By(journal, VmPrefix), By(journal, HostPrefix));

    public static bool IsVm(StoredEvent stored) => stored.PersistenceId.StartsWith(VmPrefix, StringComparison.Ordinal);

    public static string IdOf(StoredEvent stored) => stored.PersistenceId[(stored.PersistenceId.IndexOf('/', StringComparison.Ordinal) + 1)..];

    /// <summary>Where an event places its microVM; null: nowhere.</summary>
    public static (string Host, ulong Epoch)? PlaceOf(object stored) => stored switch
    {
        VmPlaced placed => (placed.Host, placed.Epoch),
        VmMoved { Host.Length: > 0 } moved => (moved.Host, moved.Epoch),
        _ => null,
    };

    private static ulong? EndedEpoch(object stored) => stored switch
    {
        VmEnded ended => ended.Epoch,
        VmFailed failed => failed.Epoch,
        VmLaunchFailed failed => failed.Epoch,
        _ => null,
    };

    private static Dictionary<string, List<StoredEvent>> By(IReadOnlyList<StoredEvent> journal, string prefix) => journal
        .Where(stored => stored.PersistenceId.StartsWith(prefix, StringComparison.Ordinal))
        .GroupBy(IdOf, StringComparer.Ordinal)
        .ToDictionary(group => group.Key, group => group.ToList(), StringComparer.Ordinal);
}
