using System.Text.Json;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Api;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>The requests about snapshots: bodies, rules, files, and the end of a process that could not load one. Without KVM.</summary>
public sealed class SnapshotApiTests : IDisposable
{
    private readonly ScratchDirectory _files = new();

    private string State => _files.File("vmstate");

    private string Memory => _files.File("mem");

    [Fact]
    public void Should_write_both_files_of_a_paused_microvm()
    {
        using var vmm = Paused();
        vmm.Ok("PUT", "/snapshot/create", Create("Full"));
        Assert.Equal("memory", File.ReadAllText(Memory));
        var state = StateFile.Load(State);
        Assert.Equal(vmm.Machines.State, state.Machine);
        Assert.Equal(vmm.Request("GET", "/vm/config").Body, System.Text.Encoding.UTF8.GetString(state.Configuration));
        Assert.Equal(["build", "start", "pause", "save", "save memory", "forget changes"], vmm.Machines.Calls);
        Assert.Contains("\"Paused\"", vmm.Request("GET", "/").Body, StringComparison.Ordinal);
        Assert.Equal(2, Directory.GetFiles(_files.Root).Length);
    }

    [Fact]
    public void Should_write_what_changed_when_a_diff_is_asked_for()
    {
        using var vmm = Paused();
        vmm.Ok("PUT", "/snapshot/create", Create("Diff"));
        Assert.Contains("save changes", vmm.Machines.Calls);
    }

    [Fact]
    public void Should_replace_older_files_in_one_step()
    {
        File.WriteAllText(State, "old");
        File.WriteAllText(Memory, "old");
        using var vmm = Paused();
        vmm.Ok("PUT", "/snapshot/create", Create("Full"));
        Assert.Equal("memory", File.ReadAllText(Memory));
        Assert.Equal(vmm.Machines.State, StateFile.Load(State).Machine);
        Assert.Equal(2, Directory.GetFiles(_files.Root).Length);
    }

    [Fact]
    public void Should_leave_nothing_and_stay_paused_when_the_memory_can_not_be_written()
    {
        File.WriteAllText(State, "old");
        using var vmm = Paused();
        vmm.Machines.MemoryFailure = new SystemCallException("write", 28);
        Assert.Equal(
            "Create snapshot error: write: No space left on device (os error 28). The microVM is paused as before.",
            vmm.Fault("PUT", "/snapshot/create", Create("Full")));
        Assert.Equal([State], Directory.GetFiles(_files.Root));
        Assert.Equal("old", File.ReadAllText(State));
        Assert.DoesNotContain("forget changes", vmm.Machines.Calls);
        vmm.Ok("PATCH", "/vm", """{"state": "Resumed"}""");
    }

    /// <summary>The older files may be the caller's only snapshot.</summary>
    [Fact]
    public void Should_bring_the_older_memory_back_when_the_state_can_not_take_its_place()
    {
        Directory.CreateDirectory(State);
        File.WriteAllText(Memory, "old");
        using var vmm = Paused();
        Assert.Contains("rename: Is a directory", vmm.Fault("PUT", "/snapshot/create", Create("Full")), StringComparison.Ordinal);
        Assert.Equal([Memory], Directory.GetFiles(_files.Root));
        Assert.Equal("old", File.ReadAllText(Memory));
    }

    [Fact]
    public void Should_leave_no_memory_without_a_state()
    {
        // The state's name is taken by something that a file can't replace.
        Directory.CreateDirectory(State);
        using var vmm = Paused();
        Assert.Contains("rename: Is a directory", vmm.Fault("PUT", "/snapshot/create", Create("Full")), StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(_files.Root));
        Assert.DoesNotContain("forget changes", vmm.Machines.Calls);
    }

    [Theory]
    [InlineData("""{"snapshot_path": "a"}""", "An error occurred when deserializing the json body of a request: missing field `mem_file_path` at line 1 column 22.")]
    [InlineData("""{"snapshot_path": "a", "mem_file_path": "b", "snapshot_type": "Half"}""", "An error occurred when deserializing the json body of a request: unknown variant `Half`, expected `Full` or `Diff` at line 1 column 68.")]
    [InlineData("""{"snapshot_path": "a", "mem_file_path": "a"}""", "Create snapshot error: snapshot_path and mem_file_path are in each other's way: two files of different names are needed.")]
    [InlineData("""{"snapshot_path": "x/../a", "mem_file_path": "a.new"}""", "Create snapshot error: snapshot_path and mem_file_path are in each other's way: two files of different names are needed.")]
    [InlineData("""{"snapshot_path": "", "mem_file_path": "a"}""", "Create snapshot error: the path is empty.")]
    [InlineData("""{"snapshot_path": "/no/such/a", "mem_file_path": "/no/such/b"}""", "Create snapshot error: open: No such file or directory (os error 2). The microVM is paused as before.")]
    public void Should_refuse_a_creation(string body, string fault)
    {
        using var vmm = Paused();
        Assert.Equal(fault, vmm.Fault("PUT", "/snapshot/create", body));
    }

    [Fact]
    public void Should_create_only_while_paused()
    {
        using var vmm = new RunningVmm();
        Assert.Equal("The requested operation is not supported before starting the microVM.", vmm.Fault("PUT", "/snapshot/create", Create("Full")));
        vmm.Start();
        Assert.Equal(
            "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running",
            vmm.Fault("PUT", "/snapshot/create", Create("Full")));
    }

    [Theory]
    [InlineData(false, "Paused", "start paused")]
    [InlineData(true, "Running", "start")]
    public void Should_load_into_a_new_process(bool resume, string state, string call)
    {
        string config;
        using (var first = Configured())
        {
            first.Ok("PUT", "/snapshot/create", Create("Full"));
            config = first.Request("GET", "/vm/config").Body;
        }

        // The kernel went with the first process' directory, and nobody misses it.
        using var second = new RunningVmm();
        second.Ok("PUT", "/logger", """{"level": "Debug"}""");
        second.Ok("PUT", "/snapshot/load", Load($$""", "resume_vm": {{(resume ? "true" : "false")}}"""));
        Assert.Equal(["restore", call], second.Machines.Calls);
        Assert.Contains($"\"{state}\"", second.Request("GET", "/").Body, StringComparison.Ordinal);
        Assert.Equal(second.Machines.State, second.Machines.Source!.State.ToArray());
        Assert.Equal((Memory, false, false), (second.Machines.Source.MemoryPath, second.Machines.Source.ByFaultHandler, second.Machines.Source.FollowRealtime));
        var settings = second.Machines.Settings!;
        Assert.Equal((2, 64, true, false), (settings.Vcpus, settings.MemoryMib, settings.Entropy is not null, settings.TrackDirtyPages));
        Assert.Equal(["root", "data"], settings.Disks.Select(disk => disk.Id));
        Assert.Equal(Part(config, "drives"), Part(second.Request("GET", "/vm/config").Body, "drives"));
        Assert.Equal(Part(config, "boot-source"), Part(second.Request("GET", "/vm/config").Body, "boot-source"));
    }

    [Fact]
    public void Should_put_another_file_behind_a_drive()
    {
        using (var first = Configured())
        {
            first.Ok("PUT", "/snapshot/create", Create("Full"));
        }

        var clone = _files.File("clone.img", new string('c', 1024));
        File.Delete(_files.File("data.img"));
        using var second = new RunningVmm();
        second.Ok("PUT", "/snapshot/load", Load($$""", "drive_overrides": [{"drive_id": "data", "path_on_host": "{{clone}}"}], "track_dirty_pages": true, "clock_realtime": true"""));
        Assert.Equal(clone, second.Machines.Settings!.Disks[1].Path);
        Assert.True(second.Machines.Settings.TrackDirtyPages);
        Assert.True(second.Machines.Source!.FollowRealtime);
        Assert.Contains(clone, second.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(""", "drive_overrides": [{"drive_id": "nobody", "path_on_host": "x"}]""", "Load snapshot error: drive_overrides: the snapshot has no drive nobody.")]
    [InlineData(""", "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap0"}]""", "Load snapshot error: network_overrides: the snapshot has no network interface eth0.")]
    [InlineData(""", "vsock_override": {"uds_path": "v.sock"}""", "Load snapshot error: vsock_override: the snapshot has no vsock device.")]
    [InlineData(""", "fleet_status_port_override": {"output_path": "s"}""", "Load snapshot error: fleet_status_port_override: the snapshot has no status port.")]
    public void Should_end_after_an_override_of_what_is_not_there(string more, string fault)
    {
        using (var first = Paused())
        {
            first.Ok("PUT", "/snapshot/create", Create("Full"));
        }

        Assert.Equal(fault, EndOfLoad(Load(more)));
    }

    [Fact]
    public void Should_end_after_a_load_that_failed()
    {
        Assert.Equal($"Load snapshot error: the state file {State} can't be used: open: No such file or directory (os error 2)", EndOfLoad(Load()));
        File.WriteAllText(State, "this is not a state file");
        Assert.Equal($"Load snapshot error: the state file {State} can't be used: it is no state file of fleet-vmm", EndOfLoad(Load()));
        File.WriteAllBytes(State, new StateFile("{}"u8.ToArray(), []).Encode());
        Assert.Equal($"Load snapshot error: the state file {State} can't be used: its configuration: missing field `boot-source` at line 1 column 2", EndOfLoad(Load()));
    }

    [Fact]
    public void Should_end_after_a_machine_that_could_not_be_restored()
    {
        using (var first = Paused())
        {
            first.Ok("PUT", "/snapshot/create", Create("Full"));
        }

        var machines = new FakeMachines { RestoreFailure = new SnapshotException("the memory file is too small") };
        Assert.Equal("Load snapshot error: the memory file is too small", EndOfLoad(Load(), machines));
        machines = new FakeMachines { RestoreFailure = new MachineException(MachineFault.KvmUnavailable, "KVM can't be used.") };
        Assert.Equal("Load snapshot error: KVM can't be used.", EndOfLoad(Load(), machines));
    }

    [Theory]
    [InlineData("""{"snapshot_path": "s"}""", "missing field: either `mem_backend` or `mem_file_path` is required")]
    [InlineData("""{"snapshot_path": "s", "mem_file_path": "m", "mem_backend": {"backend_type": "File", "backend_path": "m"}}""", "too many fields: either `mem_backend` or `mem_file_path` exclusively is required")]
    [InlineData("""{"mem_file_path": "m"}""", "missing field `snapshot_path` at line 1 column 22")]
    [InlineData("""{"snapshot_path": "s", "mem_backend": {"backend_type": "Tape", "backend_path": "m"}}""", "unknown variant `Tape`, expected `File` or `Uffd` at line 1 column 61")]
    [InlineData("""{"snapshot_path": "s", "mem_file_path": "m", "huge_pages": "2M"}""", "huge_pages is not supported by fleet-vmm, leave it out or say `Snapshot` at line 1 column 63")]
    public void Should_live_on_after_a_body_that_says_nothing_good(string body, string fault)
    {
        using var vmm = new RunningVmm();
        Assert.Equal($"An error occurred when deserializing the json body of a request: {fault}.", vmm.Fault("PUT", "/snapshot/load", body));
        Assert.Equal(200, vmm.Request("GET", "/").Status);
    }

    [Theory]
    [InlineData("/machine-config", """{"vcpu_count": 1, "mem_size_mib": 128}""")]
    [InlineData("/entropy", "{}")]
    [InlineData("/drives/a", """{"drive_id": "a", "is_root_device": false, "path_on_host": "/no/such"}""")]
    public void Should_not_load_over_a_configuration(string path, string body)
    {
        using var vmm = new RunningVmm();
        _ = vmm.Request("PUT", path, body);
        Assert.Equal(
            "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.",
            vmm.Fault("PUT", "/snapshot/load", Load()));
        Assert.Equal(200, vmm.Request("GET", "/").Status);
        vmm.Start();
        Assert.Equal("The requested operation is not supported after starting the microVM.", vmm.Fault("PUT", "/snapshot/load", Load()));
    }

    [Fact]
    public void Should_load_through_a_fault_handler()
    {
        using (var first = Paused())
        {
            first.Ok("PUT", "/snapshot/create", Create("Full"));
        }

        using var second = new RunningVmm();
        second.Ok("PUT", "/snapshot/load", $$"""{"snapshot_path": "{{State}}", "mem_backend": {"backend_type": "Uffd", "backend_path": "/h.sock"} }""");
        Assert.Equal(("/h.sock", true), (second.Machines.Source!.MemoryPath, second.Machines.Source.ByFaultHandler));
    }

    [Fact]
    public void Should_tell_how_long_it_took()
    {
        using var vmm = Paused(metrics: true);
        vmm.Ok("PUT", "/snapshot/create", Create("Full"));
        vmm.Ok("PUT", "/actions", """{"action_type": "FlushMetrics"}""");
        using var line = JsonDocument.Parse(File.ReadAllLines(vmm.Directory.File("metrics"))[^1]);
        Assert.True(line.RootElement.GetProperty("latencies_us").GetProperty("full_create_snapshot").GetInt64() > 0);
        Assert.Equal(0, line.RootElement.GetProperty("latencies_us").GetProperty("diff_create_snapshot").GetInt64());
        Assert.Equal(1, line.RootElement.GetProperty("put_api_requests").GetProperty("fleet_snapshot_create_count").GetInt64());
    }

    public void Dispose() => _files.Dispose();

    // A microVM with devices, paused.
    private RunningVmm Configured()
    {
        var root = _files.File("root.img", new string('r', 1024));
        var data = _files.File("data.img", new string('d', 1024));
        var vmm = new RunningVmm();
        vmm.Ok("PUT", "/machine-config", """{"vcpu_count": 2, "mem_size_mib": 64, "track_dirty_pages": true}""");
        vmm.Ok("PUT", "/drives/data", $$"""{"drive_id": "data", "is_root_device": false, "path_on_host": "{{data}}"}""");
        vmm.Ok("PUT", "/drives/root", $$"""{"drive_id": "root", "is_root_device": true, "path_on_host": "{{root}}", "is_read_only": true}""");
        vmm.Ok("PUT", "/entropy", "{}");
        vmm.Start();
        vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
        return vmm;
    }

    private static RunningVmm Paused(bool metrics = false)
    {
        var vmm = new RunningVmm();
        if (metrics)
        {
            vmm.Ok("PUT", "/metrics", $$"""{"metrics_path": "{{vmm.Directory.File("metrics")}}"}""");
        }

        vmm.Start();
        vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
        return vmm;
    }

    private static string EndOfLoad(string body, FakeMachines? machines = null)
    {
        using var vmm = new RunningVmm(machines);
        var fault = vmm.Fault("PUT", "/snapshot/load", body);
        Assert.Equal(152, vmm.WaitForExit());
        Assert.Equal((152, "snapshot_invalid", fault), vmm.ReadExitFile());
        return fault;
    }

    private static string Part(string config, string name)
    {
        using var json = JsonDocument.Parse(config);
        return json.RootElement.GetProperty(name).GetRawText();
    }

    private string Create(string type) => $$"""{"snapshot_type": "{{type}}", "snapshot_path": "{{State}}", "mem_file_path": "{{Memory}}"}""";

    private string Load(string more = "") => $$"""{"snapshot_path": "{{State}}", "mem_backend": {"backend_type": "File", "backend_path": "{{Memory}}"}{{more}}}""";
}
