namespace Fleet.Vmm.Snapshots;

/// <summary>What a machine is restored from.</summary>
/// <param name="State">What the saved machine wrote by <see cref="Machines.IMachine.Save"/>.</param>
/// <param name="MemoryPath">The memory file, or the socket of a page fault handler.</param>
/// <param name="ByFaultHandler">Which of the two it is.</param>
/// <param name="FollowRealtime">The guest's clock goes on as if it had run all the while.</param>
internal sealed record RestoreSource(ReadOnlyMemory<byte> State, string MemoryPath, bool ByFaultHandler, bool FollowRealtime);
