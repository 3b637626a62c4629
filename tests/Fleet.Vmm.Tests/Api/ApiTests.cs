using System.Text.Json;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.Devices.Virtio;
using Fleet.Vmm.Machines;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>What the API answers, request by request, over a real socket.</summary>
public sealed class ApiTests
{
    private const string Before = "The requested operation is not supported before starting the microVM.";
    private const string After = "The requested operation is not supported after starting the microVM.";
    private const string InJson = "An error occurred when deserializing the json body of a request: ";

    [Fact]
    public void Should_tell_id_state_and_version()
    {
        using var vmm = new RunningVmm();
        var (status, body) = vmm.Request("GET", "/");
        Assert.Equal(200, status);
        Assert.Equal("""{"id":"test-1","state":"Not started","vmm_version":"0.1.0","app_name":"fleet-vmm"}""", body);
        Assert.Equal((200, """{"firecracker_version":"0.1.0"}"""), vmm.Request("GET", "/version"));
        Assert.Equal((200, """{"firecracker_version":"0.1.0"}"""), vmm.Request("GET", "http://localhost/version"));
    }

    [Fact]
    public void Should_start_pause_resume_and_end_with_the_guest()
    {
        using var vmm = new RunningVmm();
        vmm.Ok("PUT", "/machine-config", """{"vcpu_count": 2, "mem_size_mib": 64}""");
        vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{vmm.Kernel}}", "initrd_path": "{{vmm.Kernel}}", "boot_args": "quiet"}""");
        vmm.Ok("PUT", "/fleet/status-port", """{"output_path": "/somewhere/status.log"}""");
        vmm.Ok("PUT", "/serial", """{"serial_out_path": "/somewhere/console", "rate_limiter": {"size": 5, "refill_time": 6, "one_time_burst": 7}}""");
        vmm.Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
        Assert.Equivalent(
            new MachineSettings { Vcpus = 2, MemoryMib = 64, KernelPath = vmm.Kernel, InitrdPath = vmm.Kernel, BootArgs = "quiet", StatusPortPath = "/somewhere/status.log", Serial = new("/somewhere/console", new(5, 6, 7)) },
            vmm.Machines.Settings,
            strict: true);
        Assert.Equal("Running", State(vmm));
        Assert.Equal((200, """{"threads":[101,102]}"""), vmm.Request("GET", "/fleet/vcpus"));

        vmm.Ok("PATCH", "/vm", """{"state": "Resumed"}""");
        vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
        vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
        Assert.Equal("Paused", State(vmm));
        vmm.Ok("PATCH", "/vm", """{"state": "Resumed"}""");
        Assert.Equal("Running", State(vmm));

        // The answer may or may not come before the end: the guest is gone as soon as it obeys.
        using (var client = vmm.Connect())
        {
            const string Body = """{"action_type": "SendCtrlAltDel"}""";
            client.Send($"PUT /actions HTTP/1.1\r\nContent-Length: {Body.Length}\r\n\r\n{Body}");
            Assert.Equal(0, vmm.WaitForExit());
            Assert.Equal((204, ""), client.ReadAnswer());
        }

        Assert.Equal(["build", "start", "pause", "resume", "ctrl-alt-del", "dispose"], vmm.Machines.Calls);
        Assert.Equal((0, "guest_shutdown", "The guest reset itself."), vmm.ReadExitFile());
        Assert.False(File.Exists(vmm.Socket));
    }

    [Fact]
    public void Should_hold_the_order_of_things_before_the_start()
    {
        using var vmm = new RunningVmm();
        Assert.Equal(Before, vmm.Fault("PATCH", "/vm", """{"state": "Paused"}"""));
        Assert.Equal(Before, vmm.Fault("PUT", "/actions", """{"action_type": "SendCtrlAltDel"}"""));
        Assert.Equal(Before, vmm.Fault("PUT", "/actions", """{"action_type": "FlushMetrics"}"""));
        Assert.Equal(Before, vmm.Fault("GET", "/fleet/vcpus"));
        Assert.Equal("Start microvm error: Cannot start microvm without kernel configuration.", vmm.Fault("PUT", "/actions", """{"action_type": "InstanceStart"}"""));
        Assert.Empty(vmm.Machines.Calls);
    }

    [Fact]
    public void Should_hold_the_order_of_things_after_the_start()
    {
        using var vmm = new RunningVmm();
        vmm.Start();
        Assert.Equal(After, vmm.Fault("PUT", "/actions", """{"action_type": "InstanceStart"}"""));
        Assert.Equal(After, vmm.Fault("PUT", "/boot-source", $$"""{"kernel_image_path": "{{vmm.Kernel}}"}"""));
        Assert.Equal(After, vmm.Fault("PUT", "/machine-config", """{"vcpu_count": 1, "mem_size_mib": 64}"""));
        Assert.Equal(After, vmm.Fault("PATCH", "/machine-config", """{"vcpu_count": 1}"""));
        Assert.Equal(After, vmm.Fault("PUT", "/logger", """{"level": "Info"}"""));
        Assert.Equal(After, vmm.Fault("PUT", "/metrics", """{"metrics_path": "/x"}"""));
        Assert.Equal(After, vmm.Fault("PUT", "/fleet/status-port", """{"output_path": "/x"}"""));
        Assert.Equal(200, vmm.Request("GET", "/machine-config").Status);
        Assert.Equal(200, vmm.Request("GET", "/vm/config").Status);
    }

    [Fact]
    public void Should_start_with_Firecrackers_defaults()
    {
        using var vmm = new RunningVmm();
        vmm.Start();
        Assert.Equivalent(
            new MachineSettings
            {
                Vcpus = 1,
                MemoryMib = 128,
                KernelPath = vmm.Kernel,
                BootArgs = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce",
            },
            vmm.Machines.Settings,
            strict: true);
    }

    [Fact]
    public void Should_keep_the_configuration_when_a_start_fails()
    {
        var machines = new FakeMachines { BuildFailure = new MachineException(MachineFault.KernelInvalid, "Not an ELF file.") };
        using var vmm = new RunningVmm(machines);
        vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{vmm.Kernel}}"}""");
        Assert.Equal("Start microvm error: Not an ELF file.", vmm.Fault("PUT", "/actions", """{"action_type": "InstanceStart"}"""));
        Assert.Equal("Not started", State(vmm));
        machines.BuildFailure = null;
        vmm.Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
        Assert.Equal("Running", State(vmm));
    }

    [Fact]
    public void Should_survive_a_failure_that_nobody_thought_of()
    {
        using var vmm = new RunningVmm(new FakeMachines { PauseFailure = new InvalidOperationException("a bug") });
        vmm.Start();
        Assert.Equal("Internal VMM error: unexpected failure, see the log of the VMM.", vmm.Fault("PATCH", "/vm", """{"state": "Paused"}"""));
        Assert.Equal("Running", State(vmm));
        Assert.Contains("a bug", File.ReadAllText(vmm.Log), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_update_and_show_the_machine_configuration()
    {
        using var vmm = new RunningVmm();
        Assert.Equal("""{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}""", vmm.Request("GET", "/machine-config").Body);
        vmm.Ok("PATCH", "/machine-config", """{"mem_size_mib": 256}""");
        vmm.Ok("PATCH", "/machine-config", """{"vcpu_count": 3, "smt": null, "cpu_template": "None", "huge_pages": "None"}""");
        Assert.Equal("""{"vcpu_count":3,"mem_size_mib":256,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}""", vmm.Request("GET", "/machine-config").Body);
        vmm.Ok("PUT", "/machine-config", """{"vcpu_count": 32, "mem_size_mib": 1, "cpu_template": null}""");
        Assert.Equal("""{"vcpu_count":32,"mem_size_mib":1,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}""", vmm.Request("GET", "/machine-config").Body);
    }

    [Theory]
    [InlineData("""{"vcpu_count": 0, "mem_size_mib": 64}""", "The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.")]
    [InlineData("""{"vcpu_count": 33, "mem_size_mib": 64}""", "The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.")]
    [InlineData("""{"vcpu_count": 3, "mem_size_mib": 64, "smt": true}""", "The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.")]
    [InlineData("""{"vcpu_count": 1, "mem_size_mib": 0}""", "The memory size (MiB) is either 0, or not a multiple of the configured page size.")]
    [InlineData("""{"vcpu_count": 1, "mem_size_mib": 1048577}""", "The memory size (MiB) is larger than 1048576.")]
    [InlineData("""{"vcpu_count": 1, "mem_size_mib": 18446744073709551615}""", "The memory size (MiB) is larger than 1048576.")]
    [InlineData("""{"vcpu_count": 2, "mem_size_mib": 64, "smt": true}""", "smt is not supported by fleet-vmm: every vCPU is a core of its own. Leave it out or say false.")]
    [InlineData("""{"vcpu_count": 2, "mem_size_mib": 64, "cpu_template": "T2"}""", "cpu_template is not supported by fleet-vmm. Leave it out or say None.")]
    [InlineData("""{"vcpu_count": 2, "mem_size_mib": 64, "huge_pages": "2M"}""", "huge_pages is not supported by fleet-vmm. Leave it out or say None.")]
    public void Should_refuse_a_machine_that_it_cannot_run(string body, string fault)
    {
        using var vmm = new RunningVmm();
        Assert.Equal("Machine config error: " + fault, vmm.Fault("PUT", "/machine-config", body));
        Assert.StartsWith("""{"vcpu_count":1,"mem_size_mib":128,""", vmm.Request("GET", "/machine-config").Body, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("PUT", "/machine-config", """{"mem_size_mib":1024}""", "missing field `vcpu_count` at line 1 column 21.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":1}""", "missing field `mem_size_mib` at line 1 column 16.")]
    [InlineData("PUT", "/machine-config", """{"vcpus":1}""", "unknown field `vcpus`, expected one of `vcpu_count`, `mem_size_mib`, `smt`, `cpu_template`, `track_dirty_pages`, `huge_pages` at line 1 column 8.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":"1","mem_size_mib":1}""", "invalid type: string \"1\", expected u8 at line 1 column 17.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":256,"mem_size_mib":1}""", "invalid value: integer `256`, expected u8 at line 1 column 17.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":-1,"mem_size_mib":1}""", "invalid value: integer `-1`, expected u8 at line 1 column 16.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":1.5,"mem_size_mib":1}""", "invalid type: floating point `1.5`, expected u8 at line 1 column 17.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":null,"mem_size_mib":1}""", "invalid type: null, expected u8 at line 1 column 18.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":1,"vcpu_count":1}""", "duplicate field `vcpu_count` at line 1 column 28.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":1,"mem_size_mib":1,"huge_pages":"1G"}""", "unknown variant `1G`, expected one of `None`, `Transparent`, `2M` at line 1 column 50.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":1,"mem_size_mib":1} x""", "trailing characters at line 1 column 34.")]
    [InlineData("PUT", "/machine-config", "[1]", "invalid type: sequence, expected struct MachineConfig at line 1 column 1.")]
    [InlineData("PUT", "/machine-config", "{\"vcpu_count\":1,\n\"smt\":2}", "invalid type: integer `2`, expected a boolean at line 2 column 7.")]
    [InlineData("PUT", "/machine-config", "not json", "expected value at line 1 column 1.")]
    [InlineData("PUT", "/machine-config", """{"vcpu_count":""", "EOF while parsing a value at line 1 column 14.")]
    [InlineData("PUT", "/machine-config", "{\"\xff\":1}", "invalid unicode code point at line 1 column 1.")]
    [InlineData("PUT", "/boot-source", """{"kernel_image_path":"\ud800"}""", "lone leading surrogate in hex escape at line 1 column 29.")]
    [InlineData("PUT", "/boot-source", """{}""", "missing field `kernel_image_path` at line 1 column 2.")]
    [InlineData("PUT", "/actions", """{"action_type":"Explode"}""", "unknown variant `Explode`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel` at line 1 column 24.")]
    [InlineData("PUT", "/actions", """{"action":"InstanceStart"}""", "unknown field `action`, expected `action_type` at line 1 column 9.")]
    [InlineData("PUT", "/actions", """{"action_type":{"a":1}}""", "invalid type: map, expected a string at line 1 column 16.")]
    [InlineData("PATCH", "/vm", """{"state":"Stopped"}""", "unknown variant `Stopped`, expected `Paused` or `Resumed` at line 1 column 18.")]
    [InlineData("PATCH", "/vm", """{}""", "missing field `state` at line 1 column 2.")]
    [InlineData("PUT", "/logger", """{"level":"Loud"}""", "unknown variant `Loud`, expected one of `Off`, `Trace`, `Debug`, `Info`, `Warn`, `Warning`, `Error` at line 1 column 15.")]
    [InlineData("PUT", "/logger", """{"module":"api"}""", "the log of fleet-vmm has no modules, leave out `module` at line 1 column 15.")]
    [InlineData("PUT", "/metrics", """{}""", "missing field `metrics_path` at line 1 column 2.")]
    [InlineData("PUT", "/fleet/lease", """{"lapses_at_ms":1}""", "missing field `ends_after_ms` at line 1 column 18.")]
    [InlineData("PUT", "/fleet/lease", """{"lapses_at_ms":1,"ends_after_ms":86400001}""", "invalid value: integer `86400001`, expected u64 at line 1 column 42.")]
    [InlineData("PUT", "/fleet/status-port", """{"path":"/x"}""", "unknown field `path`, expected `output_path` at line 1 column 7.")]
    public void Should_refuse_bodies_in_serdes_words(string method, string path, string body, string fault)
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Send($"{method} {path} HTTP/1.1\r\nContent-Length: {body.Length}\r\n\r\n{body}");
        var (status, text) = client.ReadAnswer();
        Assert.Equal(400, status);
        Assert.Equal(InJson + fault, RunningVmm.FaultOf(text));
        Assert.Equal(200, client.Request("GET", "/").Status);
    }

    [Theory]
    [InlineData("GET", "/foo/bar", null, "Invalid request method and/or path: GET foo.")]
    [InlineData("PUT", "/foo", "{}", "Invalid request method and/or path: PUT foo.")]
    [InlineData("GET", "/actions", null, "Invalid request method and/or path: GET actions.")]
    [InlineData("DELETE", "/machine-config", null, "Invalid request method and/or path: DELETE machine-config.")]
    [InlineData("GET", "/machine-config", "{}", "GET request cannot have a body.")]
    [InlineData("PUT", "/machine-config", null, "Empty PUT request.")]
    [InlineData("PATCH", "/machine-config", null, "Empty PATCH request.")]
    [InlineData("PATCH", "/machine-config", "{}", "Empty PATCH request.")]
    [InlineData("DELETE", "/drives/root", "{}", "Empty Delete request.")]
    [InlineData("PUT", "/drives/root", "{}", "An error occurred when deserializing the json body of a request: missing field `drive_id` at line 1 column 2.")]
    [InlineData("PUT", "/drives/a", """{"drive_id": "b", "is_root_device": true}""", "The id from the path does not match the id from the body!")]
    [InlineData("PUT", "/drives", """{"drive_id": "b", "is_root_device": true}""", "The ID cannot be empty.")]
    [InlineData("PUT", "/drives/a-b", """{"drive_id": "a-b", "is_root_device": true}""", "API Resource IDs can only contain alphanumeric characters and underscores.")]
    [InlineData("PUT", "/drives/a", """{"drive_id": "a", "is_root_device": true, "path_on_host": "/nowhere"}""", "Drive config error: Unable to create the virtio block device: open: No such file or directory (os error 2) (/nowhere)")]
    [InlineData("PUT", "/drives/a", """{"drive_id": "a", "is_root_device": true, "path_on_host": "/dev", "is_read_only": true}""", "Drive config error: Unable to create the virtio block device: not a regular file (/dev)")]
    [InlineData("PUT", "/entropy", """{"rate_limiter": {"bandwidth": {"size": 1}}}""", "An error occurred when deserializing the json body of a request: missing field `refill_time` at line 1 column 42.")]
    [InlineData("PUT", "/entropy", """{"rate_limiter": {"bytes": 1}}""", "An error occurred when deserializing the json body of a request: unknown field `bytes`, expected `bandwidth` or `ops` at line 1 column 25.")]
    [InlineData("PUT", "/entropy", """{"rate_limiter": {"ops": {"size": -1, "refill_time": 1}}}""", "An error occurred when deserializing the json body of a request: invalid value: integer `-1`, expected u64 at line 1 column 36.")]
    [InlineData("PATCH", "/drives/a", """{"drive_id": "a"}""", "The requested operation is not supported before starting the microVM.")]
    [InlineData("GET", "/hotplug/memory", null, "/hotplug is not supported by fleet-vmm 0.1.0.")]
    [InlineData("PUT", "/boot-source", """{"kernel_image_path": "/no/such/kernel"}""", "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)")]
    [InlineData("PUT", "/boot-source", """{"kernel_image_path": "/dev/zero"}""", "Boot source error: The kernel file cannot be opened: not a regular file")]
    [InlineData("PUT", "/boot-source", """{"kernel_image_path": ""}""", "Boot source error: The kernel file cannot be opened: the path is empty.")]
    [InlineData("PUT", "/boot-source", """{"kernel_image_path": "/etc/passwd\u0000.elf"}""", "Boot source error: The kernel file cannot be opened: the path contains a NUL character.")]
    [InlineData("PUT", "/boot-source", """{"kernel_image_path": "/etc/passwd", "initrd_path": "/no/such"}""", "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. No such file or directory (os error 2)")]
    [InlineData("PUT", "/boot-source", """{"kernel_image_path": "/etc/passwd", "boot_args": "a\nb"}""", "Boot source error: The kernel command line is invalid: String contains a non-printable ASCII character.")]
    [InlineData("PUT", "/logger", """{"log_path": "/no/such/dir/log"}""", "Logger error: Failed to open target file: No such file or directory (os error 2)")]
    [InlineData("PUT", "/metrics", """{"metrics_path": "/no/such/dir/log"}""", "Metrics error: Failed to open target file: No such file or directory (os error 2)")]
    [InlineData("PUT", "/serial", """{"serial_out_path": ""}""", "Serial error: the path is empty.")]
    [InlineData("PUT", "/fleet/status-port", """{"output_path": ""}""", "Status port error: the path is empty.")]
    public void Should_say_why_it_refuses(string method, string path, string? body, string fault)
    {
        using var vmm = new RunningVmm();
        Assert.Equal(fault, vmm.Fault(method, path, body));
    }

    [Fact]
    public void Should_not_hang_on_a_fifo_given_as_kernel()
    {
        using var vmm = new RunningVmm();
        var fifo = vmm.Directory.File("fifo");
        Assert.Equal(0, Native.mkfifo(fifo, 0x180));
        Assert.Equal("Boot source error: The kernel file cannot be opened: not a regular file", vmm.Fault("PUT", "/boot-source", $$"""{"kernel_image_path": "{{fifo}}"}"""));
    }

    [Fact]
    public void Should_refuse_boot_args_that_are_too_long()
    {
        using var vmm = new RunningVmm();
        vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{vmm.Kernel}}", "boot_args": "{{new string('a', 2047)}}"}""");
        Assert.Equal(
            "Boot source error: The kernel command line is invalid: Inserting string would make command line too long.",
            vmm.Fault("PUT", "/boot-source", $$"""{"kernel_image_path": "{{vmm.Kernel}}", "boot_args": "{{new string('a', 2048)}}"}"""));
    }

    [Fact]
    public void Should_refuse_to_set_metrics_twice()
    {
        using var vmm = new RunningVmm();
        vmm.Ok("PUT", "/metrics", $$"""{"metrics_path": "{{vmm.Directory.File("m")}}"}""");
        Assert.Equal("Metrics error: Reinitialization of metrics not allowed.", vmm.Fault("PUT", "/metrics", $$"""{"metrics_path": "{{vmm.Directory.File("m2")}}"}"""));
    }

    [Fact]
    public void Should_write_metrics_as_differences()
    {
        var machines = new FakeMachines { Counters = new MachineCounters(10, 4, 3, 2, 1, 70, 6, 5, 1) { IoOutLatency = new ExitLatency(1999, 7000, 9500) } };
        using var vmm = new RunningVmm(machines);
        var path = vmm.Directory.File("metrics");
        vmm.Ok("PUT", "/metrics", $$"""{"metrics_path": "{{path}}", "emit_id": true, "properties": {"rack": "r1"} }""");
        vmm.Start();
        machines.Counters = machines.Counters with { Exits = 15, SerialBytesOut = 100, IoOutLatency = new ExitLatency(1999, 8000, 17_600) };
        vmm.Ok("PUT", "/actions", """{"action_type": "FlushMetrics"}""");
        var lines = File.ReadAllLines(path);
        Assert.Equal(2, lines.Length);
        using var first = JsonDocument.Parse(lines[0]);
        using var second = JsonDocument.Parse(lines[1]);
        Assert.Equal("test-1", second.RootElement.GetProperty("id").GetString());
        Assert.Equal("r1", second.RootElement.GetProperty("properties").GetProperty("rack").GetString());
        Assert.Equal(10, Number(first, "vcpu", "exits"));
        Assert.Equal(4, Number(first, "vcpu", "exit_io_in"));
        Assert.Equal(70, Number(first, "uart", "write_count"));
        Assert.Equal(1, Number(first, "put_api_requests", "boot_source_count"));
        Assert.Equal(5, Number(second, "vcpu", "exits"));
        Assert.Equal(0, Number(second, "vcpu", "exit_io_in"));
        Assert.Equal("""{"min_us":1,"max_us":7,"sum_us":9}""", first.RootElement.GetProperty("vcpu").GetProperty("exit_io_out_agg").GetRawText());
        Assert.Equal("""{"min_us":1,"max_us":8,"sum_us":8}""", second.RootElement.GetProperty("vcpu").GetProperty("exit_io_out_agg").GetRawText());
        Assert.Equal("""{"min_us":0,"max_us":0,"sum_us":0}""", second.RootElement.GetProperty("vcpu").GetProperty("exit_mmio_read_agg").GetRawText());
        Assert.Equal(30, Number(second, "uart", "write_count"));
        Assert.Equal(0, Number(second, "put_api_requests", "boot_source_count"));
        Assert.Equal(1, Number(second, "put_api_requests", "actions_count"));
        Assert.True(Number(first, "api_server", "process_startup_time_cpu_us") > 0);
    }

    [Fact]
    public void Should_not_wait_for_a_full_metrics_fifo()
    {
        using var vmm = new RunningVmm();
        var fifo = vmm.Directory.File("metrics");
        Assert.Equal(0, Native.mkfifo(fifo, 0x180));
        vmm.Ok("PUT", "/metrics", $$"""{"metrics_path": "{{fifo}}"}""");
        vmm.Start();
        (int Status, string Body) last = (204, "");
        for (var i = 0; i < 200 && last.Status == 204; i++)
        {
            last = vmm.Request("PUT", "/actions", """{"action_type": "FlushMetrics"}""");
        }

        Assert.Equal("Internal VMM error: Failed to write metrics: the metrics file or FIFO takes no more now.", RunningVmm.FaultOf(last.Body));
        Assert.Equal("Running", State(vmm));
    }

    [Fact]
    public void Should_move_the_log_and_show_what_is_asked_for()
    {
        using var vmm = new RunningVmm();
        var path = vmm.Directory.File("second-log");
        vmm.Ok("PUT", "/logger", $$"""{"log_path": "{{path}}", "level": "info", "show_level": true, "show_log_origin": true}""");
        _ = vmm.Request("GET", "/version");
        var line = Assert.Single(File.ReadAllLines(path));
        Assert.Matches("""^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[test-1:main:INFO:LogRequest:\d+\] The API server received a Get request on "/version"\.$""", line);
        Assert.Contains("Running fleet-vmm v0.1.0", File.ReadAllText(vmm.Log), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_keep_a_log_line_one_line()
    {
        using var vmm = new RunningVmm();
        _ = vmm.Fault("PUT", "/actions", "\"\u001b[2J\nforged line\u0085 \u00e9\"");
        var log = File.ReadAllText(vmm.Log);
        Assert.DoesNotContain("\u001b", log, StringComparison.Ordinal);
        Assert.Contains("\\x1b[2J\\x0aforged line\\x85 \u00e9", log, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_configure_disks_and_change_their_files()
    {
        using var vmm = new RunningVmm();
        var root = vmm.Directory.File("root.img", "r");
        var data = vmm.Directory.File("data.img", "d");
        vmm.Ok("PUT", "/drives/data", $$"""{"drive_id": "data", "is_root_device": false, "path_on_host": "{{data}}", "cache_type": "Writeback", "io_engine": "Async"}""");
        vmm.Ok("PUT", "/drives/root", $$"""{"drive_id": "root", "is_root_device": true, "path_on_host": "{{data}}"}""");
        vmm.Ok("PUT", "/drives/root", $$"""{"drive_id": "root", "is_root_device": true, "path_on_host": "{{root}}", "is_read_only": true, "io_engine": "Sync"}""");
        Assert.Equal(
            "Drive config error: A root block device already exists!",
            vmm.Fault("PUT", "/drives/data", $$"""{"drive_id": "data", "is_root_device": true, "path_on_host": "{{data}}"}"""));
        vmm.Ok("PUT", "/entropy", "{}");
        vmm.Start();
        Assert.Equal([new DiskSettings("root", root, true, false, false, new LimiterSettings(null, null)), new DiskSettings("data", data, false, true, true, new LimiterSettings(null, null))], vmm.Machines.Settings!.Disks);
        Assert.Equal(new RootDevice("/dev/vda", true), vmm.Machines.Settings.Root);
        Assert.Equal(new LimiterSettings(null, null), vmm.Machines.Settings.Entropy);
        Assert.Contains(
            $$"""{"drive_id":"data","partuuid":null,"is_root_device":false,"cache_type":"Writeback","is_read_only":false,"path_on_host":"{{data}}","rate_limiter":null,"io_engine":"Async","socket":null}""",
            vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);

        vmm.Ok("PATCH", "/drives/data", $$"""{"drive_id": "data", "path_on_host": "{{root}}"}""");
        vmm.Ok("PATCH", "/drives/data", """{"drive_id": "data"}""");
        Assert.Equal(2, vmm.Machines.Calls.Count(call => call == $"disk data {root}"));
        Assert.Equal("Drive config error: Device not found", vmm.Fault("PATCH", "/drives/none", """{"drive_id": "none"}"""));
        Assert.Equal(
            "The requested operation is not supported after starting the microVM.",
            vmm.Fault("PUT", "/drives/data", $$"""{"drive_id": "data", "is_root_device": false, "path_on_host": "{{data}}"}"""));
    }

    [Fact]
    public void Should_configure_sockets_between_guest_and_host()
    {
        using var vmm = new RunningVmm();
        var path = vmm.Directory.File("v.sock");
        vmm.Ok("PUT", "/vsock", $$"""{"guest_cid": 3, "uds_path": "{{vmm.Directory.File("other")}}", "vsock_id": "old"}""");
        vmm.Ok("PUT", "/vsock", $$"""{"guest_cid": 52, "uds_path": "{{path}}"}""");
        Assert.Equal(
            $"Vsock config error: Cannot create backend for vsock device: bind: Address already in use (os error 98) ({vmm.Kernel})",
            vmm.Fault("PUT", "/vsock", $$"""{"guest_cid": 52, "uds_path": "{{vmm.Kernel}}"}"""));
        Assert.Contains("a guest_cid of 2", vmm.Fault("PUT", "/vsock", $$"""{"guest_cid": 2, "uds_path": "{{path}}"}"""), StringComparison.Ordinal);
        Assert.Contains("107 bytes", vmm.Fault("PUT", "/vsock", $$"""{"guest_cid": 3, "uds_path": "{{new string('x', 108)}}"}"""), StringComparison.Ordinal);
        vmm.Start();
        Assert.Equal(new VsockSettings(52, path), vmm.Machines.Settings!.Vsock);
        Assert.Contains($$"""
            "vsock":{"guest_cid":52,"uds_path":"{{path}}"}
            """.Trim(), vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_configure_a_balloon_and_change_it()
    {
        using var vmm = new RunningVmm();
        Assert.Equal("Balloon config error: No balloon device found.", vmm.Fault("GET", "/balloon"));
        vmm.Ok("PUT", "/balloon", """{"amount_mib": 200, "deflate_on_oom": true, "stats_polling_interval_s": 5, "free_page_reporting": true}""");
        Assert.Equal(
            (200, """{"amount_mib":200,"deflate_on_oom":true,"stats_polling_interval_s":5,"free_page_hinting":false,"free_page_reporting":true}"""),
            vmm.Request("GET", "/balloon"));
        vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{vmm.Kernel}}"}""");
        Assert.Equal(
            "Balloon config error: Amount of MiB requested (200) is larger than the microVM's memory (128).",
            vmm.Fault("PUT", "/actions", """{"action_type": "InstanceStart"}"""));
        vmm.Ok("PUT", "/balloon", """{"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 5}""");
        Assert.Contains("no free page hinting", vmm.Fault("PUT", "/balloon", """{"amount_mib": 0, "deflate_on_oom": true, "free_page_hinting": true}"""), StringComparison.Ordinal);
        vmm.Start();
        Assert.Equal(new BalloonSettings(0, true, 5, false), vmm.Machines.Settings!.Balloon);
        vmm.Ok("PATCH", "/balloon", """{"amount_mib": 64}""");
        Assert.Contains("balloon 16384", vmm.Machines.Calls);
        Assert.Contains("larger than the microVM's memory", vmm.Fault("PATCH", "/balloon", """{"amount_mib": 129}"""), StringComparison.Ordinal);
        vmm.Ok("PATCH", "/balloon/statistics", """{"stats_polling_interval_s": 9}""");
        Assert.Contains("can't be switched off", vmm.Fault("PATCH", "/balloon/statistics", """{"stats_polling_interval_s": 0}"""), StringComparison.Ordinal);
        Assert.StartsWith("""{"target_pages":""", vmm.Request("GET", "/balloon/statistics").Body, StringComparison.Ordinal);
        Assert.Contains("not supported", vmm.Fault("PATCH", "/balloon/hinting/start", "{}"), StringComparison.Ordinal);
        Assert.Contains(
            """
            "balloon":{"amount_mib":64,"deflate_on_oom":true,"stats_polling_interval_s":9,
            """.Trim(), vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_take_a_lease_and_only_a_longer_one_after_it()
    {
        using var vmm = new RunningVmm();
        Assert.Equal("""{"state":"none"}""", vmm.Request("GET", "/fleet/lease").Body);
        vmm.Ok("PUT", "/fleet/lease", """{"lapses_at_ms": 9000000000, "ends_after_ms": 5000}""");
        vmm.Start();
        vmm.Ok("PUT", "/fleet/lease", """{"lapses_at_ms": 9000000000, "ends_after_ms": 7000}""");
        vmm.Ok("PUT", "/fleet/lease", """{"lapses_at_ms": 8000000000, "ends_after_ms": 5000}""");
        Assert.DoesNotContain(vmm.Machines.Calls, static call => call.StartsWith("lease", StringComparison.Ordinal));
        vmm.Ok("PUT", "/fleet/lease", """{"lapses_at_ms": 9000000001, "ends_after_ms": 6000}""");
        Assert.Contains("lease until 9000000001 ms", vmm.Machines.Calls);
        Assert.StartsWith("""{"state":"held","lapses_at_ms":9000000001,"ends_after_ms":6000,"now_ms":""", vmm.Request("GET", "/fleet/lease").Body, StringComparison.Ordinal);
        Assert.DoesNotContain("fleet-lease", vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_not_start_without_the_lease_that_it_was_given()
    {
        using var vmm = new RunningVmm();
        vmm.Ok("PUT", "/fleet/lease", """{"lapses_at_ms": 1, "ends_after_ms": 5000}""");
        vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{vmm.Directory.File("kernel", "k")}}"}""");
        Assert.Equal("Start microvm error: The lease has lapsed.", vmm.Fault("PUT", "/actions", """{"action_type": "InstanceStart"}"""));
        Assert.StartsWith("""{"state":"lapsed",""", vmm.Request("GET", "/fleet/lease").Body, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_configure_limits_and_change_them()
    {
        using var vmm = new RunningVmm();
        var path = vmm.Directory.File("data.img", "d");
        vmm.Ok("PUT", "/entropy", """{"rate_limiter": {"bandwidth": {"size": 10, "refill_time": 20, "one_time_burst": null, "more": [{"than": 1}, "asked"]}, "ops": null}}""");
        vmm.Ok("PUT", "/drives/d", $$"""
            {"drive_id": "d", "is_root_device": false, "path_on_host": "{{path}}",
             "rate_limiter": {"ops": {"one_time_burst": 5, "refill_time": 100, "size": 7}, "bandwidth": {"size": 0, "refill_time": 1} } }
            """);
        Assert.Equal("The requested operation is not supported before starting the microVM.", vmm.Fault("PATCH", "/entropy", "{}"));
        Assert.Equal("The requested operation is not supported before starting the microVM.", vmm.Fault("GET", "/fleet/limiters"));
        vmm.Start();
        Assert.Equal(new LimiterSettings(new BucketSettings(10, 20, 0), null), vmm.Machines.Settings!.Entropy);
        Assert.Equal(new LimiterSettings(new BucketSettings(0, 1, 0), new BucketSettings(7, 100, 5)), Assert.Single(vmm.Machines.Settings.Disks).Limits);
        var config = vmm.Request("GET", "/vm/config").Body;
        Assert.Contains("""
            "rate_limiter":{"bandwidth":null,"ops":{"size":7,"one_time_burst":5,"refill_time":100}},"io_engine"
            """.Trim(), config, StringComparison.Ordinal);
        Assert.Contains("""
            "entropy":{"rate_limiter":{"bandwidth":{"size":10,"one_time_burst":null,"refill_time":20},"ops":null}}
            """.Trim(), config, StringComparison.Ordinal);

        vmm.Ok("PATCH", "/drives/d", """{"drive_id": "d", "rate_limiter": {"bandwidth": {"size": 9, "refill_time": 8}, "ops": {"size": 0, "refill_time": 0}}}""");
        vmm.Ok("PATCH", "/entropy", """{"rate_limiter": {"bandwidth": {"size": 0, "refill_time": 0}}}""");
        var update = new LimiterSettings(new BucketSettings(9, 8, 0), new BucketSettings(0, 0, 0));
        Assert.Contains($"retune drives/d {update}", vmm.Machines.Calls);
        Assert.DoesNotContain(vmm.Machines.Calls, call => call.StartsWith("disk", StringComparison.Ordinal));
        config = vmm.Request("GET", "/vm/config").Body;
        Assert.Contains("""
            "rate_limiter":{"bandwidth":{"size":9,"one_time_burst":null,"refill_time":8},"ops":null},"io_engine"
            """.Trim(), config, StringComparison.Ordinal);
        Assert.Contains("\"entropy\":{\"rate_limiter\":null}", config, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Should_configure_network_interfaces_and_change_their_limits()
    {
        Skip.IfNot(OwnNetwork.IsPossible, "needs root and /dev/net/tun");
        using var vmm = new RunningVmm(taps: ["fleet0", "fleet1"]);
        vmm.Ok("PUT", "/network-interfaces/eth0", """
            {"iface_id": "eth0", "host_dev_name": "fleet0", "guest_mac": "06:00:AC:10:00:02", "mtu": 9000,
             "rx_rate_limiter": {"bandwidth": {"size": 5, "refill_time": 6, "one_time_burst": 7}}, "tx_rate_limiter": null}
            """);
        const string Other = """{"iface_id": "eth1", "host_dev_name": "fleet1"}""";
        Assert.Equal(
            "The id from the path [eth0] does not match the id from the body [eth1]!", vmm.Fault("PUT", "/network-interfaces/eth0", Other));
        vmm.Ok("PUT", "/network-interfaces/eth1", Other);
        Assert.Equal(
            "Network config error: The MAC address is already in use: 06:00:ac:10:00:02",
            vmm.Fault("PUT", "/network-interfaces/eth1", """{"iface_id": "eth1", "host_dev_name": "fleet1", "guest_mac": "06:00:ac:10:00:02"}"""));
        Assert.Equal(
            "Network config error: The host device name is already in use: fleet0",
            vmm.Fault("PUT", "/network-interfaces/eth1", """{"iface_id": "eth1", "host_dev_name": "fleet0"}"""));
        Assert.Equal(
            "Network config error: Could not create the network device: Open tap device failed: if_nametoindex: No such device (os error 19) (fleet9)",
            vmm.Fault("PUT", "/network-interfaces/eth1", """{"iface_id": "eth1", "host_dev_name": "fleet9"}"""));
        Assert.StartsWith(
            "Network config error: Could not create the network device: Open tap device failed: TUNSETIFF: Invalid argument",
            vmm.Fault("PUT", "/network-interfaces/eth1", """{"iface_id": "eth1", "host_dev_name": "lo"}"""), StringComparison.Ordinal);
        foreach (var bad in (string[])["\"mtu\": 67", "\"mtu\": 65536", "\"guest_mac\": \"06:00:ac:10:00\"", "\"guest_mac\": \"06:00:ac:10:00:0g\""])
        {
            Assert.StartsWith(
                "An error occurred when deserializing",
                vmm.Fault("PUT", "/network-interfaces/eth1", $$"""{"iface_id": "eth1", "host_dev_name": "fleet1", {{bad}}}"""), StringComparison.Ordinal);
        }

        vmm.Start();
        var rx = new LimiterSettings(new BucketSettings(5, 6, 7), null);
        var none = new LimiterSettings(null, null);
        Assert.Equal(
            [new NetworkSettings("eth0", "fleet0", 0x0600ac100002, 9000, rx, none), new NetworkSettings("eth1", "fleet1", null, null, none, none)],
            vmm.Machines.Settings!.Networks);
        vmm.Ok("PATCH", "/network-interfaces/eth0", """{"iface_id": "eth0", "tx_rate_limiter": {"ops": {"size": 3, "refill_time": 4}}}""");
        Assert.Contains($"retune network-interfaces/eth0 {new LimiterSettings(null, new BucketSettings(3, 4, 0))}", vmm.Machines.Calls);
        Assert.Contains(
            """{"iface_id":"eth0","host_dev_name":"fleet0","guest_mac":"06:00:ac:10:00:02","rx_rate_limiter":{"bandwidth":{"size":5,"one_time_burst":7,"refill_time":6},"ops":null},"tx_rate_limiter":{"bandwidth":null,"ops":{"size":3,"one_time_burst":null,"refill_time":4}},"mtu":9000}""",
            vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
        Assert.Equal("Network config error: Device not found", vmm.Fault("PATCH", "/network-interfaces/eth7", """{"iface_id": "eth7"}"""));
    }

    [Fact]
    public void Should_answer_a_configuration_that_can_be_used_as_file()
    {
        using var vmm = new RunningVmm();
        var untouched = vmm.Request("GET", "/vm/config").Body;
        Assert.Contains("\"boot-source\":{\"kernel_image_path\":\"\",\"initrd_path\":null,\"boot_args\":null}", untouched, StringComparison.Ordinal);
        vmm.Ok("PUT", "/machine-config", """{"vcpu_count": 2, "mem_size_mib": 64}""");
        vmm.Ok("PUT", "/logger", """{"level": "Debug"}""");
        vmm.Ok("PUT", "/metrics", $$"""{"metrics_path": "{{vmm.Directory.File("m")}}", "properties": {"a": "b"} }""");
        vmm.Ok("PUT", "/fleet/status-port", """{"output_path": "/x/status.log"}""");
        vmm.Ok("PUT", "/entropy", "{}");
        vmm.Ok("PUT", "/drives/d", $$"""{"drive_id": "d", "is_root_device": true, "path_on_host": "{{vmm.Kernel}}", "is_read_only": true}""");
        vmm.Start();
        var file = vmm.Directory.File("config.json", vmm.Request("GET", "/vm/config").Body);

        using var again = new RunningVmm(null, true, "--config-file", file);
        Assert.True(SpinWait.SpinUntil(() => State(again) == "Running", RunningVmm.Patience));
        Assert.Equivalent(vmm.Machines.Settings, again.Machines.Settings, strict: true);
    }

    private static long Number(JsonDocument line, string group, string name) => line.RootElement.GetProperty(group).GetProperty(name).GetInt64();

    private static string State(RunningVmm vmm)
    {
        using var json = JsonDocument.Parse(vmm.Request("GET", "/").Body);
        return json.RootElement.GetProperty("state").GetString()!;
    }
}
