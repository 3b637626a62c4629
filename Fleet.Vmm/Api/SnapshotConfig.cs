namespace Fleet.Vmm.Api;

/// <summary>Body of <c>PUT /snapshot/create</c>.</summary>
internal sealed record SnapshotTarget(string StatePath, string MemoryPath)
{
    private static readonly string[] Fields = ["snapshot_path", "mem_file_path", "snapshot_type"];
    private static readonly string[] Types = ["Full", "Diff"];

    public static SnapshotTarget Read(ref JsonBody body)
    {
        body.ExpectObject("struct CreateSnapshotParams");
        string state = "", memory = "";
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            switch (field)
            {
                case 0: state = body.String(); break;
                case 1: memory = body.String(); break;

                // Said and not done would be worse than refused: the caller would count on it.
                default:
                    if (!body.IsNull && body.Variant(Types) == 1)
                    {
                        throw body.Fault("fleet-vmm has no diff snapshots yet, say `Full`");
                    }

                    break;
            }
        }

        body.Require(Fields, seen, 0);
        body.Require(Fields, seen, 1);
        return new SnapshotTarget(state, memory);
    }
}

/// <summary>Another drive file, tap or socket than the snapshot's own, by the device's id.</summary>
internal sealed record SnapshotOverrides(IReadOnlyDictionary<string, string> Drives, IReadOnlyDictionary<string, string> Networks, string? VsockPath);

/// <summary>Body of <c>PUT /snapshot/load</c>; <c>drive_overrides</c> is ours.</summary>
internal sealed record SnapshotSource(string StatePath, string MemoryPath, bool Resume, bool GoesOnInRealTime, SnapshotOverrides Overrides)
{
    private static readonly string[] Fields =
    [
        "snapshot_path", "mem_backend", "mem_file_path", "track_dirty_pages", "enable_diff_snapshots", "resume_vm", "network_overrides",
        "vsock_override", "clock_realtime", "huge_pages", "drive_overrides",
    ];

    private static readonly string[] BackendFields = ["backend_type", "backend_path"];
    private static readonly string[] Backends = ["File", "Uffd"];
    private static readonly string[] PageSizes = ["Snapshot", "None", "Transparent", "2M"];
    private static readonly string[] NetworkFields = ["iface_id", "host_dev_name"];
    private static readonly string[] DriveFields = ["drive_id", "path_on_host"];
    private static readonly string[] VsockFields = ["uds_path"];

    public static SnapshotSource Read(ref JsonBody body)
    {
        body.ExpectObject("struct LoadSnapshotConfig");
        string state = "";
        string? backend = null, memory = null, vsock = null;
        bool resume = false, realTime = false;
        var drives = new Dictionary<string, string>();
        var networks = new Dictionary<string, string>();
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull && field > 0)
            {
                continue;
            }

            switch (field)
            {
                case 0: state = body.String(); break;
                case 1: backend = ReadBackend(ref body); break;
                case 2: memory = body.String(); break;
                case 3 or 4:
                    if (body.Boolean())
                    {
                        throw body.Fault($"fleet-vmm does not track dirty pages yet, leave out `{Fields[field]}`");
                    }

                    break;
                case 5: resume = body.Boolean(); break;
                case 6: ReadOverrides(ref body, "struct NetworkOverride", NetworkFields, networks); break;
                case 7: vsock = ReadVsock(ref body); break;
                case 8: realTime = body.Boolean(); break;
                case 9:
                    if (body.Variant(PageSizes) > 1)
                    {
                        throw body.Fault("fleet-vmm has no huge pages, leave out `huge_pages`");
                    }

                    break;
                default: ReadOverrides(ref body, "struct DriveOverride", DriveFields, drives); break;
            }
        }

        body.Require(Fields, seen, 0);
        if (backend is null == memory is null)
        {
            throw body.Fault("missing field: either `mem_backend` or `mem_file_path` is required");
        }

        return new SnapshotSource(state, backend ?? memory!, resume, realTime, new SnapshotOverrides(drives, networks, vsock));
    }

    private static string ReadBackend(ref JsonBody body)
    {
        body.ExpectObject("struct MemBackendConfig");
        var path = "";
        uint seen = 0;
        while (body.NextField(BackendFields, ref seen, out var field))
        {
            if (field == 1)
            {
                path = body.String();
            }
            else if (body.Variant(Backends) == 1)
            {
                throw body.Fault("fleet-vmm does not load memory through userfaultfd yet, say `File`");
            }
        }

        body.Require(BackendFields, seen, 0);
        body.Require(BackendFields, seen, 1);
        return path;
    }

    private static void ReadOverrides(ref JsonBody body, string what, string[] fields, Dictionary<string, string> overrides)
    {
        body.ExpectArray();
        while (body.NextElement())
        {
            body.ExpectObject(what);
            string id = "", value = "";
            uint seen = 0;
            while (body.NextKnownField(fields, ref seen, out var field))
            {
                if (field == 0)
                {
                    id = body.String();
                }
                else
                {
                    value = body.String();
                }
            }

            body.Require(fields, seen, 0);
            body.Require(fields, seen, 1);
            overrides[id] = value;
        }
    }

    private static string ReadVsock(ref JsonBody body)
    {
        body.ExpectObject("struct VsockOverride");
        var path = "";
        uint seen = 0;
        while (body.NextKnownField(VsockFields, ref seen, out _))
        {
            path = body.String();
        }

        body.Require(VsockFields, seen, 0);
        return path;
    }
}
