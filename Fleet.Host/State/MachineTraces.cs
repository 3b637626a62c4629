using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Networks;

namespace Fleet.Host.State;

/// <summary>What agents leave on their machine outside of a state directory.</summary>
public static class MachineTraces
{
    /// <summary>Whether the networks that an agent made by this state directory may still be there: it was killed before it had removed them.</summary>
    public static bool HasNetworks(string stateDirectory) => Directory.Exists(HostNetworks.FolderIn(stateDirectory));

    /// <summary>
    /// Removes the control group of all agents, unless one of them has a microVM in it. Not for an agent: another may be about to put its first
    /// microVM there.
    /// </summary>
    public static void RemoveControlGroup() => ControlGroups.OfThisMachine(DriverOptions.DefaultControlGroup).TryRemoveParent();
}
