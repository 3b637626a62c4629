namespace Fleet.Vmm.Devices;

/// <summary>
/// What one device counts, under Firecracker's names. A line of metrics tells what was added since the line before, for each
/// device and for all of its kind together.
/// </summary>
/// <remarks>Of the event loop. Names are shared by all devices of a kind; a device counts by their index.</remarks>
internal sealed class DeviceMetrics(string group, string? instance, string[] names)
{
    private readonly ulong[] _now = new ulong[names.Length];
    private readonly ulong[] _written = new ulong[names.Length];

    /// <summary>Name of the group of all devices of the kind, such as <c>block</c>.</summary>
    public string Group => group;

    /// <summary>Which of them; null when there is only one.</summary>
    public string? Instance => instance;

    public ReadOnlySpan<string> Names => names;

    public void Add(int name, ulong count = 1) => _now[name] += count;

    /// <summary>For what is counted elsewhere.</summary>
    public void Set(int name, ulong total) => _now[name] = total;

    /// <summary>Added since the last <see cref="Commit"/>.</summary>
    public ulong Since(int name) => _now[name] - _written[name];

    /// <summary>A line with these counts was written.</summary>
    public void Commit() => _now.CopyTo(_written, 0);
}
