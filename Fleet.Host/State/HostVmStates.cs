using Fleet.Shared.Contracts;

namespace Fleet.Host.State;

/// <summary>What a host's word about a microVM says of its VMM.</summary>
internal static class HostVmStates
{
    /// <summary>True while a VMM runs or may be about to.</summary>
    public static bool HasVmm(this HostVmState state) => state is HostVmState.Launching or HostVmState.Running;
}
