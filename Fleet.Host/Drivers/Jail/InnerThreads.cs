using System.Globalization;

namespace Fleet.Host.Drivers.Jail;

/// <summary>Thread ids of a process in a pid namespace of its own, which count from 1 there, as the host counts them.</summary>
internal static class InnerThreads
{
    private const string Key = "NSpid:";

    /// <summary>The host's ids of the threads that the process itself calls by these.</summary>
    /// <exception cref="IOException">One is not there (any more).</exception>
    public static IReadOnlyList<int> ToOuter(int process, IReadOnlyList<int> inner)
    {
        var outer = new Dictionary<int, int>();
        foreach (string task in Directory.EnumerateDirectories($"/proc/{process}/task"))
        {
            if (!int.TryParse(Path.GetFileName(task), NumberStyles.None, CultureInfo.InvariantCulture, out int id)) continue;
            // From the outermost namespace that we see to the innermost.
            string? line = File.ReadLines(Path.Combine(task, "status")).FirstOrDefault(line => line.StartsWith(Key, StringComparison.Ordinal));
            if (line is not null && int.TryParse(line.Split('\t')[^1], NumberStyles.None, CultureInfo.InvariantCulture, out int within)) outer[within] = id;
        }
        return [.. inner.Select(id => outer.TryGetValue(id, out int found) ? found : throw new IOException($"process {process} has no thread {id}"))];
    }
}
