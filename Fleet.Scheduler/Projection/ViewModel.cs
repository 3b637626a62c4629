using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Projection;

/// <summary>Which microVMs a list wants. Empty means no filter.</summary>
internal sealed record VmFilter(
    IReadOnlyList<VmState> States, string? Host, IReadOnlyList<KeyValuePair<string, string>> Labels, string? Tenant = null)
{
    public static readonly VmFilter None = new([], null, []);
}

/// <summary>One page in order of ids.</summary>
/// <param name="Items">The records.</param>
/// <param name="NextAfter">The id to go on from, or null on the last page.</param>
/// <param name="Index">How much of the change log the page has seen.</param>
internal sealed record Page<T>(IReadOnlyList<T> Items, string? NextAfter, long Index);

internal enum ChangeKind
{
    Vm = 1,
    Host = 2,
}

/// <summary>One entry of the change log: the object as it was after the change. One of the records is set.</summary>
internal sealed record Change(long Index, ChangeKind Kind, string Id, VmRecord? Vm, HostRecord? Host);

/// <summary>A piece of the change log.</summary>
/// <param name="Changes">In order, oldest first.</param>
/// <param name="Index">Where to go on from.</param>
/// <param name="Compacted">Entries up to here are gone.</param>
/// <param name="Outside">The place asked for is compacted, or ahead of everything there is.</param>
internal sealed record ChangeSlice(IReadOnlyList<Change> Changes, long Index, long Compacted, bool Outside);

/// <summary>What one batch did.</summary>
/// <param name="Index">The offset of its last event.</param>
/// <param name="Versions">The newest versions of what it touched, by persistence id.</param>
/// <param name="Deleted">Ids of the microVMs that are gone now.</param>
internal sealed record Applied(long Index, IReadOnlyDictionary<string, ulong> Versions, IReadOnlyList<string> Deleted);
