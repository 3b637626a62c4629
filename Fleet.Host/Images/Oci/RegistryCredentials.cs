using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Shared.Files;
using Fleet.Shared.Vms;

namespace Fleet.Host.Images.Oci;

/// <summary>
/// Who this host is to its registries: a file in Docker's form (<c>auths</c>, of each registry <c>auth</c>, the user and the password in base64), for the
/// agent's user alone. Read anew for each pull. Nothing of it is ever told or logged.
/// </summary>
public sealed class RegistryCredentials
{
    private const string File = "registries.json", DockerHub = "docker.io", DockersNameOfHub = "https://index.docker.io/v1/";
    private const int MostBytes = 256 * 1024, MostWord = 4096;

    private const UnixFileMode Others = UnixFileMode.GroupRead | UnixFileMode.GroupWrite | UnixFileMode.OtherRead | UnixFileMode.OtherWrite;

    private readonly string _path;

    /// <param name="images">The folder of the host's store of images.</param>
    public RegistryCredentials(string images) => _path = Path.Combine(images, File);

    /// <summary>User and password for the registry, as they go into a request, or null.</summary>
    /// <exception cref="Fleet.Host.Drivers.LaunchFailedException">The file is no such file, or others may read it.</exception>
    internal string? Find(string registry)
    {
        var auths = Read()["auths"]!.AsObject();
        var entry = auths[registry] ?? (registry == DockerHub ? auths[DockersNameOfHub] : null);
        if (entry is null) return null;
        try
        {
            // Whatever it is, white space too: it must not break out of the line that it goes into.
            var auth = Convert.FromBase64String((string?)entry["auth"] ?? "");
            return auth.Contains((byte)':') ? Convert.ToBase64String(auth) : throw Unreadable(null);
        }
        catch (Exception wrong) when (wrong is FormatException or InvalidOperationException)
        {
            throw Unreadable(wrong);
        }
    }

    /// <summary>Registries that there is something for.</summary>
    public IReadOnlyList<string> Registries => [.. Read()["auths"]!.AsObject().Select(entry => entry.Key).Order(StringComparer.Ordinal)];

    /// <summary>Keeps them in the place of what there was for the registry.</summary>
    /// <returns>What is wrong with them, or null.</returns>
    public string? Set(string registry, string user, string password)
    {
        ArgumentNullException.ThrowIfNull(user);
        ArgumentNullException.ThrowIfNull(password);
        if (!ImageReference.TryParse($"{registry}/x", out var reference, out _) || reference.Registry != registry)
            return "A registry is written HOST or HOST:PORT, as in an image's name.";
        if (user.Length is 0 or > MostWord || user.Contains(':', StringComparison.Ordinal) || user.Any(char.IsControl))
            return "A user's name has no colon and no control characters, and is not empty.";
        if (password.Length is 0 or > MostWord || password.Any(char.IsControl))
            return "A password has no control characters, and is not empty.";
        var all = Read();
        all["auths"]![registry] = new JsonObject { ["auth"] = Convert.ToBase64String(Encoding.UTF8.GetBytes($"{user}:{password}")) };
        OwnFile.Write(_path, all.ToJsonString());
        return null;
    }

    /// <summary>False: there is nothing for the registry.</summary>
    public bool Remove(string registry)
    {
        var all = Read();
        if (!all["auths"]!.AsObject().Remove(registry)) return false;
        OwnFile.Write(_path, all.ToJsonString());
        return true;
    }

    private JsonObject Read()
    {
        try
        {
            using var stream = new FileStream(_path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
            if ((System.IO.File.GetUnixFileMode(stream.SafeFileHandle) & Others) != 0)
                throw ImageFault.Unavailable($"{_path} holds passwords, and others than its owner may read or write it: chmod 600 {_path}");
            if (stream.Length > MostBytes) throw Unreadable(null);
            var all = JsonNode.Parse(stream) as JsonObject ?? throw Unreadable(null);
            return all["auths"] is null or JsonObject ? Completed(all) : throw Unreadable(null);
        }
        catch (Exception none) when (none is FileNotFoundException or DirectoryNotFoundException)
        {
            return Completed([]);
        }
        catch (Exception wrong) when (wrong is JsonException or IOException or UnauthorizedAccessException)
        {
            throw Unreadable(wrong);
        }
    }

    private static JsonObject Completed(JsonObject all)
    {
        all["auths"] ??= new JsonObject();
        return all;
    }

    // What is in it is not repeated.
    private Drivers.LaunchFailedException Unreadable(Exception? why) =>
        ImageFault.Unavailable($"{_path} can't be read as a file of credentials{(why is JsonException or null ? "" : $": {why.Message}")}. Write it anew by fleet image login, or remove it.");
}
