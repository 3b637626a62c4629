using System.Text.Json;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Api;

/// <summary>Everything that is counted up. The order is that of the written line.</summary>
internal enum Counter
{
    GetBalloon,
    GetInstanceInfo,
    GetMachineConfig,
    GetVmmVersion,
    GetVmConfig,
    GetVcpus,
    GetLimiters,
    GetLease,
    GetMetadata,
    I8042Resets,
    MissedMetrics,
    MissedLogLines,
    PatchBalloon,
    PatchBalloonFails,
    PatchDrive,
    PatchDriveFails,
    PatchEntropy,
    PatchEntropyFails,
    PatchMachineConfig,
    PatchMachineConfigFails,
    PatchMetadata,
    PatchMetadataFails,
    PatchNetwork,
    PatchNetworkFails,
    PatchVm,
    PatchVmFails,
    PutActions,
    PutActionsFails,
    PutBalloon,
    PutBalloonFails,
    PutBootSource,
    PutBootSourceFails,
    PutCpuConfig,
    PutCpuConfigFails,
    PutDrive,
    PutDriveFails,
    PutLogger,
    PutLoggerFails,
    PutMachineConfig,
    PutMachineConfigFails,
    PutMetadata,
    PutMetadataFails,
    PutMetrics,
    PutMetricsFails,
    PutNetwork,
    PutNetworkFails,
    PutEntropy,
    PutEntropyFails,
    PutSerial,
    PutSerialFails,
    PutVsock,
    PutVsockFails,
    PutSnapshotCreate,
    PutSnapshotCreateFails,
    PutSnapshotLoad,
    PutSnapshotLoadFails,
    PutStatusPort,
    PutStatusPortFails,
    PutLease,
    PutLeaseFails,
    SignalHangUp,
    SignalCpuTime,
    UartReads,
    UartWrites,
    UartMissedWrites,
    UartDroppedBytes,
    VcpuExits,
    VcpuExitsIoIn,
    VcpuExitsIoOut,
    VcpuExitsMmioRead,
    VcpuExitsMmioWrite,
}

/// <summary>
/// The metrics: one JSON line in Firecracker's shape for the parts this VMM has. Counters are what was added since the
/// line before; a line that could not be written takes nothing away from the next.
/// </summary>
internal sealed class VmmMetrics(string instanceId, TimeProvider clock) : IDisposable
{
    private static readonly (string Group, string Name)[] Names =
    [
        ("get_api_requests", "balloon_count"),
        ("get_api_requests", "instance_info_count"),
        ("get_api_requests", "machine_cfg_count"),
        ("get_api_requests", "vmm_version_count"),
        ("get_api_requests", "vm_config_count"),
        ("get_api_requests", "fleet_vcpus_count"),
        ("get_api_requests", "fleet_limiters_count"),
        ("get_api_requests", "fleet_lease_count"),
        ("get_api_requests", "mmds_count"),
        ("i8042", "reset_count"),
        ("logger", "missed_metrics_count"),
        ("logger", "missed_log_count"),
        ("patch_api_requests", "balloon_count"),
        ("patch_api_requests", "balloon_fails"),
        ("patch_api_requests", "drive_count"),
        ("patch_api_requests", "drive_fails"),
        ("patch_api_requests", "fleet_entropy_count"),
        ("patch_api_requests", "fleet_entropy_fails"),
        ("patch_api_requests", "machine_cfg_count"),
        ("patch_api_requests", "machine_cfg_fails"),
        ("patch_api_requests", "mmds_count"),
        ("patch_api_requests", "mmds_fails"),
        ("patch_api_requests", "network_count"),
        ("patch_api_requests", "network_fails"),
        ("patch_api_requests", "vm_count"),
        ("patch_api_requests", "vm_fails"),
        ("put_api_requests", "actions_count"),
        ("put_api_requests", "actions_fails"),
        ("put_api_requests", "balloon_count"),
        ("put_api_requests", "balloon_fails"),
        ("put_api_requests", "boot_source_count"),
        ("put_api_requests", "boot_source_fails"),
        ("put_api_requests", "cpu_cfg_count"),
        ("put_api_requests", "cpu_cfg_fails"),
        ("put_api_requests", "drive_count"),
        ("put_api_requests", "drive_fails"),
        ("put_api_requests", "logger_count"),
        ("put_api_requests", "logger_fails"),
        ("put_api_requests", "machine_cfg_count"),
        ("put_api_requests", "machine_cfg_fails"),
        ("put_api_requests", "mmds_count"),
        ("put_api_requests", "mmds_fails"),
        ("put_api_requests", "metrics_count"),
        ("put_api_requests", "metrics_fails"),
        ("put_api_requests", "network_count"),
        ("put_api_requests", "network_fails"),
        ("put_api_requests", "fleet_entropy_count"),
        ("put_api_requests", "fleet_entropy_fails"),
        ("put_api_requests", "serial_count"),
        ("put_api_requests", "serial_fails"),
        ("put_api_requests", "vsock_count"),
        ("put_api_requests", "vsock_fails"),
        ("put_api_requests", "fleet_snapshot_create_count"),
        ("put_api_requests", "fleet_snapshot_create_fails"),
        ("put_api_requests", "fleet_snapshot_load_count"),
        ("put_api_requests", "fleet_snapshot_load_fails"),
        ("put_api_requests", "fleet_status_port_count"),
        ("put_api_requests", "fleet_status_port_fails"),
        ("put_api_requests", "fleet_lease_count"),
        ("put_api_requests", "fleet_lease_fails"),
        ("signals", "sighup"),
        ("signals", "sigxcpu"),
        ("uart", "read_count"),
        ("uart", "write_count"),
        ("uart", "missed_write_count"),
        ("uart", "rate_limiter_dropped_bytes"),
        ("vcpu", "exits"),
        ("vcpu", "exit_io_in"),
        ("vcpu", "exit_io_out"),
        ("vcpu", "exit_mmio_read"),
        ("vcpu", "exit_mmio_write"),
    ];

    private readonly ulong[] _now = new ulong[Names.Length];
    private readonly ulong[] _written = new ulong[Names.Length];
    private readonly ExitTimes[] _exits = [new("exit_io_in_agg"), new("exit_io_out_agg"), new("exit_mmio_read_agg"), new("exit_mmio_write_agg")];
    private IReadOnlyList<DeviceMetrics> _devices = [];
    private MetricsConfig? _config;
    private int _sink = -1;

    public bool IsConfigured => _config is not null;

    /// <summary>Microseconds, 0 while unknown.</summary>
    public ulong ProcessStartupTime { get; set; }

    /// <summary>Microseconds, 0 while unknown.</summary>
    public ulong ProcessStartupCpuTime { get; set; }

    /// <summary>Of the last full snapshot that was created, in microseconds.</summary>
    public ulong FullSnapshotLatency { get; set; }

    /// <summary>Of the last diff snapshot that was created, in microseconds.</summary>
    public ulong DiffSnapshotLatency { get; set; }

    /// <summary>Of the load, in microseconds.</summary>
    public ulong LoadSnapshotLatency { get; set; }

    /// <summary>Of the last pause, in microseconds.</summary>
    public ulong PauseLatency { get; set; }

    /// <summary>Of the last resume, in microseconds.</summary>
    public ulong ResumeLatency { get; set; }

    /// <summary>Opens the sink, once for good. Throws <see cref="SystemCallException"/>.</summary>
    public void Configure(MetricsConfig config)
    {
        _sink = Descriptors.OpenSink(config.MetricsPath);
        _config = config;
    }

    public void WriteConfiguration(Utf8JsonWriter json)
    {
        if (_config is null)
        {
            json.WriteNullValue();
        }
        else
        {
            _config.Write(json);
        }
    }

    public void Count(Counter counter) => _now[(int)counter]++;

    /// <summary>Takes over what the machine and the log count themselves.</summary>
    public void Observe(in MachineCounters machine)
    {
        Set(Counter.VcpuExits, machine.Exits);
        Set(Counter.VcpuExitsIoIn, machine.ExitsIoIn);
        Set(Counter.VcpuExitsIoOut, machine.ExitsIoOut);
        Set(Counter.VcpuExitsMmioRead, machine.ExitsMmioRead);
        Set(Counter.VcpuExitsMmioWrite, machine.ExitsMmioWrite);
        Set(Counter.UartWrites, machine.SerialBytesOut);
        Set(Counter.UartReads, machine.SerialBytesIn);
        Set(Counter.UartMissedWrites, machine.SerialMissedWrites);
        Set(Counter.UartDroppedBytes, machine.SerialDroppedBytes);
        Set(Counter.I8042Resets, machine.I8042Resets);
        _exits[0].Latency = machine.IoInLatency;
        _exits[1].Latency = machine.IoOutLatency;
        _exits[2].Latency = machine.MmioReadLatency;
        _exits[3].Latency = machine.MmioWriteLatency;
    }

    /// <summary>From now on these devices' counters are written as well. Those of a kind stand together.</summary>
    public void ObserveDevices(IReadOnlyList<DeviceMetrics> devices) => _devices = devices;

    public void ObserveLog(VmmLog log) => Set(Counter.MissedLogLines, log.Missed);

    /// <summary>Appends a line; false when metrics are configured and the sink did not take it. Never waits.</summary>
    public bool Flush()
    {
        if (_config is null)
        {
            return true;
        }

        if (!Descriptors.CanWrite(_sink) || !Descriptors.WriteAll(_sink, [.. JsonText.Write(WriteLine), (byte)'\n']))
        {
            Count(Counter.MissedMetrics);
            return false;
        }

        _now.CopyTo(_written, 0);
        foreach (var exits in _exits)
        {
            exits.Commit();
        }

        foreach (var device in _devices)
        {
            device.Commit();
        }

        return true;
    }

    public void Dispose()
    {
        if (_sink >= 0)
        {
            _ = Descriptors.close(_sink);
            _sink = -1;
            _config = null;
        }
    }

    private void Set(Counter counter, ulong value) => _now[(int)counter] = value;

    private void WriteLine(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteNumber("utc_timestamp_ms", clock.GetUtcNow().ToUnixTimeMilliseconds());
        if (_config!.EmitId)
        {
            json.WriteString("id", instanceId);
        }

        if (_config.Properties.Count > 0)
        {
            json.WriteStartObject("properties");
            foreach (var property in _config.Properties)
            {
                json.WriteString(property.Key, property.Value);
            }

            json.WriteEndObject();
        }

        json.WriteStartObject("api_server");
        json.WriteNumber("process_startup_time_us", ProcessStartupTime);
        json.WriteNumber("process_startup_time_cpu_us", ProcessStartupCpuTime);
        json.WriteEndObject();
        json.WriteStartObject("latencies_us");
        json.WriteNumber("full_create_snapshot", FullSnapshotLatency);
        json.WriteNumber("diff_create_snapshot", DiffSnapshotLatency);
        json.WriteNumber("load_snapshot", LoadSnapshotLatency);
        json.WriteNumber("pause_vm", PauseLatency);
        json.WriteNumber("resume_vm", ResumeLatency);
        json.WriteEndObject();

        string? group = null;
        for (var i = 0; i < Names.Length; i++)
        {
            if (Names[i].Group != group)
            {
                if (group is not null)
                {
                    json.WriteEndObject();
                }

                group = Names[i].Group;
                json.WriteStartObject(group);
            }

            json.WriteNumber(Names[i].Name, _now[i] - _written[i]);
        }

        // Still within "vcpu", the last of the groups.
        foreach (var exits in _exits)
        {
            exits.Write(json);
        }

        json.WriteEndObject();
        WriteDevices(json);
        json.WriteEndObject();
    }

    // All of a kind together under the kind's name, then each under its own.
    private void WriteDevices(Utf8JsonWriter json)
    {
        for (var first = 0; first < _devices.Count;)
        {
            var kind = _devices[first];
            var next = first + 1;
            while (next < _devices.Count && _devices[next].Group == kind.Group)
            {
                next++;
            }

            json.WriteStartObject(kind.Group);
            for (var name = 0; name < kind.Names.Length; name++)
            {
                var sum = 0ul;
                for (var i = first; i < next; i++)
                {
                    sum += _devices[i].Since(name);
                }

                json.WriteNumber(kind.Names[name], sum);
            }

            json.WriteEndObject();
            for (; first < next; first++)
            {
                WriteInstance(json, _devices[first]);
            }
        }
    }

    private static void WriteInstance(Utf8JsonWriter json, DeviceMetrics device)
    {
        if (device.Instance is null)
        {
            return;
        }

        json.WriteStartObject($"{device.Group}_{device.Instance}");
        for (var name = 0; name < device.Names.Length; name++)
        {
            json.WriteNumber(device.Names[name], device.Since(name));
        }

        json.WriteEndObject();
    }

    /// <summary>Times of one kind of exit in microseconds: the sum since the line before, the extremes since the machine began.</summary>
    private sealed class ExitTimes(string name)
    {
        private ulong _written;

        public ExitLatency Latency { get; set; }

        public void Write(Utf8JsonWriter json)
        {
            json.WriteStartObject(name);
            json.WriteNumber("min_us", Latency.Least / 1000);
            json.WriteNumber("max_us", Latency.Most / 1000);
            json.WriteNumber("sum_us", (Latency.Sum / 1000) - _written);
            json.WriteEndObject();
        }

        public void Commit() => _written = Latency.Sum / 1000;
    }
}
