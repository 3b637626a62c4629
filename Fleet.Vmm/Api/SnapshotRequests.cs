namespace Fleet.Vmm.Api;

/// <summary>What <c>PUT /snapshot/create</c> says.</summary>
internal sealed record SnapshotCreation(string StatePath, string MemoryPath, bool OnlyChanges)
{
    private static readonly string[] Fields = ["snapshot_type", "snapshot_path", "mem_file_path"];
    private static readonly string[] Types = ["Full", "Diff"];

    public static SnapshotCreation Read(ref JsonBody body)
    {
        body.ExpectObject("struct CreateSnapshotParams");
        var creation = new SnapshotCreation("", "", false);
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            creation = field switch
            {
                0 => creation with { OnlyChanges = body.Variant(Types) == 1 },
                1 => creation with { StatePath = body.String() },
                _ => creation with { MemoryPath = body.String() },
            };
        }

        body.Require(Fields, seen, 1);
        body.Require(Fields, seen, 2);
        return creation;
    }
}

/// <summary>What <c>PUT /snapshot/load</c> says. Firecracker's, but for the overrides of drives and of the status port, which are ours.</summary>
internal sealed record SnapshotLoad
{
    /// <summary>As many as a machine has devices is enough for every one of them.</summary>
    private const int MostOverrides = 32;

    private static readonly string[] Fields =
    [
        "snapshot_path", "mem_backend", "mem_file_path", "enable_diff_snapshots", "track_dirty_pages", "resume_vm",
        "network_overrides", "vsock_override", "clock_realtime", "huge_pages", "drive_overrides", "fleet_status_port_override",
    ];

    private static readonly string[] BackendFields = ["backend_type", "backend_path"];
    private static readonly string[] BackendTypes = ["File", "Uffd"];
    private static readonly string[] PageSizes = ["Snapshot", "None", "Transparent", "2M"];
    private static readonly string[] NetworkFields = ["iface_id", "host_dev_name"];
    private static readonly string[] VsockFields = ["uds_path"];
    private static readonly string[] DriveFields = ["drive_id", "path_on_host"];

    public string StatePath { get; init; } = "";

    /// <summary>The memory file, or the socket of a page fault handler.</summary>
    public string MemoryPath { get; init; } = "";

    public bool ByFaultHandler { get; init; }

    public bool TrackDirtyPages { get; init; }

    public bool Resume { get; init; }

    /// <summary>The guest's clock goes on as if it had run all the while.</summary>
    public bool FollowRealtime { get; init; }

    /// <summary>Network interface to tap device.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> NetworkOverrides { get; init; } = [];

    public string? VsockOverride { get; init; }

    /// <summary>Drive to file.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> DriveOverrides { get; init; } = [];

    public string? StatusPortOverride { get; init; }

    public static SnapshotLoad Read(ref JsonBody body)
    {
        body.ExpectObject("struct LoadSnapshotConfig");
        var load = new SnapshotLoad();
        var backends = 0;
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull && field is 1 or 2 or 7 or 9 or 11)
            {
                continue;
            }

            backends += field is 1 or 2 ? 1 : 0;
            load = field switch
            {
                0 => load with { StatePath = body.String() },
                1 => ReadBackend(load, ref body),
                2 => load with { MemoryPath = body.String() },
                3 or 4 => load with { TrackDirtyPages = load.TrackDirtyPages | body.Boolean() },
                5 => load with { Resume = body.Boolean() },
                6 => load with { NetworkOverrides = ReadPairs(NetworkFields, "struct NetworkOverride", ref body) },
                7 => load with { VsockOverride = ReadSingle(VsockFields, "struct VsockOverride", ref body) },
                8 => load with { FollowRealtime = body.Boolean() },
                9 when body.Variant(PageSizes) <= 1 => load,

                // Said and not done would be worse than refused.
                9 => throw body.Fault("huge_pages is not supported by fleet-vmm, leave it out or say `Snapshot`"),
                10 => load with { DriveOverrides = ReadPairs(DriveFields, "struct DriveOverride", ref body) },
                _ => load with { StatusPortOverride = SingleFieldBody.ReadStatusPort(ref body) },
            };
        }

        body.Require(Fields, seen, 0);
        return backends switch
        {
            1 => load,
            0 => throw new JsonFaultException("missing field: either `mem_backend` or `mem_file_path` is required"),
            _ => throw new JsonFaultException("too many fields: either `mem_backend` or `mem_file_path` exclusively is required"),
        };
    }

    private static SnapshotLoad ReadBackend(SnapshotLoad load, ref JsonBody body)
    {
        body.ExpectObject("struct MemBackendConfig");
        uint seen = 0;
        while (body.NextField(BackendFields, ref seen, out var field))
        {
            load = field == 0
                ? load with { ByFaultHandler = body.Variant(BackendTypes) == 1 }
                : load with { MemoryPath = body.String() };
        }

        body.Require(BackendFields, seen, 0);
        body.Require(BackendFields, seen, 1);
        return load;
    }

    private static List<KeyValuePair<string, string>> ReadPairs(string[] fields, string what, ref JsonBody body)
    {
        body.ExpectArray();
        var pairs = new List<KeyValuePair<string, string>>();
        while (body.NextElement())
        {
            body.ExpectObject(what);
            string key = "", value = "";
            uint seen = 0;
            while (body.NextField(fields, ref seen, out var field))
            {
                (key, value) = field == 0 ? (body.String(), value) : (key, body.String());
            }

            body.Require(fields, seen, 0);
            body.Require(fields, seen, 1);
            if (pairs.Count == MostOverrides)
            {
                throw body.Fault($"more than {MostOverrides} overrides");
            }

            pairs.Add(new(key, value));
        }

        return pairs;
    }

    private static string ReadSingle(string[] fields, string what, ref JsonBody body)
    {
        body.ExpectObject(what);
        var value = "";
        uint seen = 0;
        while (body.NextField(fields, ref seen, out _))
        {
            value = body.String();
        }

        body.Require(fields, seen, 0);
        return value;
    }
}
