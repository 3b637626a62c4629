namespace Fleet.Vmm.Machines;

/// <summary>Takes from threads what they need no more.</summary>
internal interface IConfinement
{
    /// <summary>Called by a vCPU's thread before anything else. Throws <see cref="Linux.SystemCallException"/>.</summary>
    void EnterVcpu();

    /// <summary>Called on the loop, when all vCPU threads are there and just before the guest runs. Throws as above.</summary>
    void GuestRuns();
}
