using System.Text.Json;

namespace Fleet.Host.Lab;

/// <summary>What is remembered of a node between two calls of the program, beside its process: <c>node.json</c> in its folder.</summary>
/// <param name="Name">The node's name, its host name and its id in the fleet.</param>
/// <param name="MemoryMib">Memory.</param>
/// <param name="Cpus">CPUs.</param>
/// <param name="StartedAt">When it was powered on.</param>
internal sealed record NodeRecord(string Name, int MemoryMib, int Cpus, DateTimeOffset StartedAt)
{
    private const string FileName = "node.json";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        // A record that lacks a member is damaged, not one with defaults.
        RespectRequiredConstructorParameters = true,
        RespectNullableAnnotations = true,
    };

    /// <summary>Written whole or not at all.</summary>
    public void Write(string folder)
    {
        var path = Path.Combine(folder, FileName);
        File.WriteAllText(path + ".new", JsonSerializer.Serialize(this, Json));
        File.Move(path + ".new", path, overwrite: true);
    }

    /// <summary>Null when there is none or it is damaged: then nothing is known of the node but its folder and its process.</summary>
    public static NodeRecord? Read(string folder)
    {
        try
        {
            return JsonSerializer.Deserialize<NodeRecord>(File.ReadAllText(Path.Combine(folder, FileName)), Json);
        }
        catch (Exception error) when (error is IOException or JsonException)
        {
            return null;
        }
    }
}

/// <summary>What a node is doing.</summary>
public enum LabNodeState
{
    /// <summary>Powered on, not ready yet.</summary>
    Booting,

    /// <summary>Ready; its agent, if it has one, was started.</summary>
    Running,

    /// <summary>Powered off.</summary>
    Off,
}

/// <summary>A node as the lab lists it.</summary>
/// <param name="Name">The node's name, its host name and its id in the fleet.</param>
/// <param name="State">What it is doing.</param>
/// <param name="Pid">QEMU's process id; 0 when it is off.</param>
/// <param name="MemoryMib">Memory.</param>
/// <param name="Cpus">CPUs.</param>
/// <param name="StartedAt">When it was last powered on; null when that is not known.</param>
/// <param name="SerialLog">Its console: the kernel's and its init's words.</param>
/// <param name="AgentLog">What its host agent printed.</param>
public sealed record LabNode(
    string Name, LabNodeState State, int Pid, int MemoryMib, int Cpus, DateTimeOffset? StartedAt, string SerialLog, string AgentLog);
