using System.Security.Cryptography;
using System.Text;
using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Drivers.Jail;

/// <summary>Starts VMMs in jails of their own, and removes what a jail leaves behind: its control groups and its user.</summary>
internal sealed class JailKeeper(DriverOptions options)
{
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(5);

    /// <summary>A group is free some microseconds after its last process; anything longer is a process that does not die.</summary>
    private const int MostTries = 200;

    private readonly UserPool _users = new();
    private readonly Lock _gate = new();
    private readonly Dictionary<string, (ControlGroups Groups, HashSet<string> Jails)> _agents = new(StringComparer.Ordinal);

    /// <summary>What this machine's control groups can't limit, as a sentence for people; empty: nothing.</summary>
    public string NotEnforced => Gap(ControlGroups.OfThisMachine(options.ControlGroup));

    /// <exception cref="LaunchFailedException">Nothing was started, and nothing of the jail is left.</exception>
    public async Task<VmmProcess> StartAsync(VmmLaunch launch, BootFiles? boot)
    {
        var groups = Hold(launch);
        try
        {
            uint user = _users.Take(launch.Directory);
            return await VmmProcess.StartJailedAsync(launch.Directory, options.VmmPath, JailCommand.Arguments(launch, boot, user, groups, options.Runs)).ConfigureAwait(false);
        }
        catch (Exception e) when (e is LaunchFailedException or IOException or UnauthorizedAccessException)
        {
            await RemoveAsync(launch).ConfigureAwait(false);
            throw e as LaunchFailedException ?? new LaunchFailedException("launch_failed", $"The directory {launch.Directory} can't be written: {e.Message}", e);
        }
    }

    /// <summary>Notes a jail that an earlier agent started; gives its groups.</summary>
    public ControlGroups Hold(VmmLaunch launch)
    {
        lock (_gate)
        {
            var (groups, jails) = AgentOf(launch);
            jails.Add(launch.VmId);
            return groups;
        }
    }

    /// <summary>The groups that a microVM's is among.</summary>
    public ControlGroups GroupsOf(VmmLaunch launch)
    {
        lock (_gate) return AgentOf(launch).Groups;
    }

    /// <summary>Removes what is left of a jail whose VMM is gone; nothing when there is nothing. Never throws.</summary>
    public async Task RemoveAsync(VmmLaunch launch)
    {
        var groups = GroupsOf(launch);
        bool removed = groups.TryRemove(launch.VmId);
        for (int i = 0; !removed && i < MostTries; i++)
        {
            await Task.Delay(Pause, TimeProvider.System).ConfigureAwait(false);
            removed = groups.TryRemove(launch.VmId);
        }
        if (!removed)
        {
            // Nor is its user given to another: what runs there would be that one's.
            options.Log.Warning("The control group {Group} can't be removed: something runs in it. The next agent tries again", $"{groups.Parent}/{launch.VmId}");
            return;
        }
        lock (_gate)
        {
            // The agent's own group goes with its last jail; not while another is being made in it.
            var jails = AgentOf(launch).Jails;
            jails.Remove(launch.VmId);
            if (jails.Count == 0) groups.TryRemoveParent();
        }
        try
        {
            _users.Return(launch.Directory);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            options.Log.Warning("The user of {Vm} stays taken: {Why}", launch.VmId, e.Message);
        }
    }

    // A group of its own for each state directory: several agents on a machine must not sweep each other's. Under the gate.
    private (ControlGroups Groups, HashSet<string> Jails) AgentOf(VmmLaunch launch)
    {
        string all = Path.GetDirectoryName(launch.Directory)!;
        if (_agents.TryGetValue(all, out var known)) return known;
        string agent = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(all)))[..12];
        var groups = ControlGroups.OfThisMachine($"{options.ControlGroup}/{agent}");
        groups.Sweep();
        if (Gap(groups) is { Length: > 0 } gap) options.Log.Warning("microVMs are less confined than they should be: {Gap:l}", gap);
        return _agents[all] = (groups, new HashSet<string>(StringComparer.Ordinal));
    }

    private static string Gap(ControlGroups groups) => groups.NotEnforced is { Count: > 0 } missing
        ? $"no control group limits {string.Join(", ", missing)} of a microVM: mount cgroup2 with these controllers"
        : "";
}
