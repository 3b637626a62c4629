using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Fleet.Host.Drivers.Jail;

/// <summary>
/// User ids for VMMs: one of its own for each, so that none may touch another's processes, and limits per user are limits per
/// microVM. An id is written down in the microVM's directory and found there by the next agent.
/// </summary>
/// <remarks>
/// Ids lie from 0x70000000 to 0x7fffffff, which systemd's conventions leave unused. Each state directory has a share of its own,
/// picked by its path, so that several agents on one machine do not meet, as far as 16,384 shares go.
/// </remarks>
internal sealed class UserPool
{
    private const uint First = 0x70000000;
    private const uint Share = 1 << 14;

    private readonly Lock _gate = new();
    private readonly Dictionary<string, HashSet<uint>> _taken = new(StringComparer.Ordinal);

    /// <summary>An id that no microVM beside this one has; the same number is its group.</summary>
    /// <exception cref="IOException">It can't be written down.</exception>
    public uint Take(string directory)
    {
        lock (_gate)
        {
            var taken = TakenBeside(directory);
            uint user = FirstOf(directory);
            while (!taken.Add(user)) user++;
            try
            {
                File.WriteAllText(Path.Combine(directory, VmmFiles.User), user.ToString(CultureInfo.InvariantCulture));
            }
            catch
            {
                taken.Remove(user);
                throw;
            }
            return user;
        }
    }

    /// <summary>Gives back what the microVM in a directory had; nothing when it had none. No process of its may run any more.</summary>
    public void Return(string directory)
    {
        lock (_gate)
        {
            var taken = TakenBeside(directory);
            string file = Path.Combine(directory, VmmFiles.User);
            if (Read(file) is not { } user) return;
            File.Delete(file);
            taken.Remove(user);
        }
    }

    private HashSet<uint> TakenBeside(string directory)
    {
        string all = Path.GetDirectoryName(directory)!;
        if (_taken.TryGetValue(all, out var taken)) return taken;
        taken = [];
        foreach (string folder in Directory.Exists(all) ? Directory.GetDirectories(all) : [])
        {
            if (Read(Path.Combine(folder, VmmFiles.User)) is { } user) taken.Add(user);
        }
        return _taken[all] = taken;
    }

    private static uint FirstOf(string directory)
    {
        var hash = SHA256.HashData(Encoding.UTF8.GetBytes(Path.GetDirectoryName(directory)!));
        return First + (BitConverter.ToUInt16(hash) % Share * Share);
    }

    private static uint? Read(string file) =>
        File.Exists(file) && uint.TryParse(File.ReadAllText(file), NumberStyles.None, CultureInfo.InvariantCulture, out uint user) ? user : null;
}
