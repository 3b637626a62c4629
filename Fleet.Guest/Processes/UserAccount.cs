using System.Globalization;
using System.Text;
using Fleet.Guest.Configuration;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Processes;

/// <summary>Whom a command runs as.</summary>
/// <param name="Uid">User.</param>
/// <param name="Gid">Group.</param>
/// <param name="Groups">Others that he is a member of.</param>
/// <param name="Home">His folder.</param>
internal sealed record UserAccount(uint Uid, uint Gid, IReadOnlyList<uint> Groups, string Home)
{
    /// <summary>A file of accounts is small, or not looked at.</summary>
    private const int LargestFile = 4 << 20;

    /// <summary>Finds who is meant by <c>user</c>, <c>uid</c>, <c>user:group</c> or <c>uid:gid</c> in the files of this root.</summary>
    public static UserAccount Find(string wanted) => Find(wanted, Lines("/etc/passwd"), Lines("/etc/group"));

    /// <param name="wanted">Empty: root.</param>
    /// <param name="passwd">Lines of name:password:uid:gid:comment:home:shell.</param>
    /// <param name="group">Lines of name:password:gid:members.</param>
    /// <exception cref="BadConfigurationException">There is no such user or group.</exception>
    public static UserAccount Find(string wanted, IEnumerable<string> passwd, IReadOnlyList<string> group)
    {
        var colon = wanted.IndexOf(':');
        var (user, groupName) = colon < 0 ? (wanted, "") : (wanted[..colon], wanted[(colon + 1)..]);
        if (user.Length == 0) user = "0";
        var numeric = Number(user);
        UserAccount? found = null;
        var name = "";
        foreach (var line in passwd)
        {
            var fields = line.Split(':');
            if (fields.Length < 6 || Number(fields[2]) is not { } uid || Number(fields[3]) is not { } gid) continue;
            if (fields[0] != user && uid != numeric) continue;
            (found, name) = (new UserAccount(uid, gid, [], fields[5].Length > 0 ? fields[5] : "/"), fields[0]);
            break;
        }
        if (found is null)
        {
            if (numeric is not { } uid) throw new BadConfigurationException($"the user '{user}' is not in the image's /etc/passwd");
            found = new UserAccount(uid, 0, [], uid == 0 ? "/root" : "/");
        }
        if (groupName.Length > 0) return found with { Gid = GroupOf(groupName, group) };
        var others = new List<uint>();
        foreach (var line in group)
        {
            var fields = line.Split(':');
            if (name.Length > 0 && fields.Length >= 4 && Number(fields[2]) is { } gid && gid != found.Gid && Array.IndexOf(fields[3].Split(','), name) >= 0) others.Add(gid);
        }
        return found with { Groups = others };
    }

    private static uint GroupOf(string wanted, IReadOnlyList<string> group)
    {
        foreach (var line in group)
        {
            var fields = line.Split(':');
            if (fields.Length >= 3 && fields[0] == wanted && Number(fields[2]) is { } gid) return gid;
        }
        return Number(wanted) ?? throw new BadConfigurationException($"the image's group '{wanted}' is not in its /etc/group");
    }

    private static uint? Number(string text) => uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : null;

    private static string[] Lines(string path) => Files.Read(path, LargestFile, out _) is { } bytes ? Encoding.UTF8.GetString(bytes).Split('\n') : [];
}
