using System.Text;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Jail;

/// <summary>
/// The microVM's control groups: made, set and entered, in version 2's one tree or in version 1's tree of each controller.
/// They outlive the VMM; who starts the jail removes them.
/// </summary>
internal sealed class ControlGroups
{
    private const string Mounts = "/proc/self/mounts";
    private const int LargestTable = 1 << 20;

    private readonly List<(string Root, string Group)> _entered = [];

    /// <summary>Where a hierarchy of control groups is mounted.</summary>
    /// <param name="Version">1 or 2.</param>
    /// <param name="Controllers">Those it has.</param>
    internal sealed record Hierarchy(int Version, string MountPoint, string[] Controllers);

    /// <summary>Makes the groups that the settings need, writes them, and moves this process in. Undoes what was done when it throws.</summary>
    /// <exception cref="JailException">A controller or file is missing, or a value is refused.</exception>
    public void Enter(int version, string parent, string id, IReadOnlyList<(string File, string Value)> settings)
    {
        if (settings.Count == 0)
        {
            return;
        }

        try
        {
            var hierarchies = Find(Encoding.UTF8.GetString(Descriptors.ReadFile(Mounts, LargestTable)), ReadControllers);
            foreach (var (file, value) in settings)
            {
                var controller = file[..file.IndexOf('.')];
                var hierarchy = hierarchies.Find(one => (version == 0 || one.Version == version) && Array.IndexOf(one.Controllers, controller) >= 0)
                    ?? throw new JailException($"No control group of {(version == 0 ? "either version" : $"version {version}")} here has the controller '{controller}', which {file} needs. Mount it, or leave the setting out and know that it is not enforced.");
                var group = Make(hierarchy, controller, parent, id);
                Write($"{group}/{file}", value);
            }

            foreach (var (_, group) in _entered)
            {
                Write(group + "/cgroup.procs", "0");
            }
        }
        catch (Exception failure) when (failure is SystemCallException or JailException or NotARegularFileException or FileTooLargeException)
        {
            Leave();
            throw failure as JailException ?? new JailException($"The control groups of {id} could not be made: {failure.Message}.");
        }
    }

    /// <summary>Gives the groups up, as far as that goes.</summary>
    public void Leave()
    {
        foreach (var (root, group) in _entered)
        {
            try
            {
                Write(root + "/cgroup.procs", "0");
            }
            catch (JailException)
            {
                // Then it is still in use, and removing it fails too; what comes after this tells why there is no jail.
            }

            _ = JailCalls.rmdir(group);
        }

        _entered.Clear();
    }

    /// <summary>Reads a table of mounts. Version 2 comes first.</summary>
    internal static List<Hierarchy> Find(string mounts, Func<string, string> readControllers)
    {
        var found = new List<Hierarchy>();
        foreach (var line in mounts.Split('\n'))
        {
            var fields = line.Split(' ');
            if (fields.Length < 4)
            {
                continue;
            }

            if (fields[2] == "cgroup2")
            {
                found.Insert(0, new Hierarchy(2, fields[1], readControllers(fields[1] + "/cgroup.controllers").Split([' ', '\n'], StringSplitOptions.RemoveEmptyEntries)));
            }
            else if (fields[2] == "cgroup")
            {
                found.Add(new Hierarchy(1, fields[1], fields[3].Split(',')));
            }
        }

        return found;
    }

    private static string ReadControllers(string path) => Encoding.UTF8.GetString(Descriptors.ReadFile(path, 4096));

    private string Make(Hierarchy hierarchy, string controller, string parent, string id)
    {
        var path = hierarchy.MountPoint;
        foreach (var name in $"{parent}/{id}".Split('/', StringSplitOptions.RemoveEmptyEntries))
        {
            if (hierarchy.Version == 2)
            {
                // A group has a controller's files when its parent hands the controller down.
                Write(path + "/cgroup.subtree_control", "+" + controller);
            }

            path += "/" + name;
            if (JailCalls.mkdir(path, 0x1ed) < 0 && System.Runtime.InteropServices.Marshal.GetLastPInvokeError() != SystemCallException.Exists)
            {
                throw new JailException($"The control group {path} could not be made", SystemCallException.Last("mkdir"));
            }
        }

        if (!_entered.Exists(entered => entered.Group == path))
        {
            _entered.Add((hierarchy.MountPoint, path));
        }

        return path;
    }

    private static void Write(string path, string value)
    {
        var fd = JailCalls.open(path, Descriptors.WriteOnly | Descriptors.CloseOnExec, 0);
        if (fd < 0)
        {
            throw new JailException($"The control group's file {path} can't be opened", SystemCallException.Last("open"));
        }

        // The kernel takes a setting in one write, or refuses it.
        var failure = Descriptors.WriteAll(fd, Encoding.UTF8.GetBytes(value)) ? null : SystemCallException.Last("write");
        _ = Descriptors.close(fd);
        if (failure is not null)
        {
            throw new JailException($"The control group's file {path} refuses '{value}'", failure, " Is the value right for this version of control groups?");
        }
    }
}
