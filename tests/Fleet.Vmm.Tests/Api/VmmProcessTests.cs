using System.Text.Json;
using Fleet.Vmm.Api;
using Fleet.Vmm.Machines;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>How the process starts and how it ends: exit codes, the exit file, the configuration file, signals.</summary>
public sealed class VmmProcessTests
{
    private const int SigHup = 1;
    private const int SigInt = 2;
    private const int SigTerm = 15;
    private const int SigXcpu = 24;

    [Theory]
    [InlineData(SigTerm, 0, "stopped", "The VMM was stopped by SIGTERM.")]
    [InlineData(SigInt, 0, "stopped", "The VMM was stopped by SIGINT.")]
    [InlineData(SigHup, 156, "stopped", "The VMM was stopped by SIGHUP.")]
    [InlineData(SigXcpu, 154, "vmm_failed", "The VMM used up its CPU time (SIGXCPU).")]
    public void Should_stop_in_order_on_a_signal(int signal, int code, string reason, string message)
    {
        foreach (var started in new[] { false, true })
        {
            using var vmm = new RunningVmm();
            if (started)
            {
                vmm.Start();
            }

            vmm.Signal(signal);
            Assert.Equal(code, vmm.WaitForExit());
            Assert.Equal((code, reason, message), vmm.ReadExitFile());
            Assert.Equal(started ? ["build", "start", "stop", "dispose"] : [], vmm.Machines.Calls);
            Assert.False(File.Exists(vmm.Socket));
            Assert.Equal(["api.sock", "exit.json", "kernel", "log"], Directory.GetFiles(vmm.Directory.Root).Select(Path.GetFileName).Append("api.sock").Order());
        }
    }

    [Fact]
    public void Should_end_without_a_machine_that_does_not_stop()
    {
        using var vmm = new RunningVmm(new FakeMachines { EndOnStop = null });
        vmm.Start();
        vmm.Signal(SigTerm);
        vmm.Signal(SigTerm);
        Assert.Equal(1, vmm.WaitForExit());
        Assert.Equal((1, "vmm_stuck", "The vCPUs did not stop within 3 s; the VMM ended without them."), vmm.ReadExitFile());
        Assert.Equal(["build", "start", "stop"], vmm.Machines.Calls);
    }

    [Theory]
    [InlineData(nameof(MachineEndKind.GuestShutdown), 0, "guest_shutdown")]
    [InlineData(nameof(MachineEndKind.Stopped), 0, "stopped")]
    [InlineData(nameof(MachineEndKind.GuestCrashed), 1, "guest_crashed")]
    [InlineData(nameof(MachineEndKind.GuestHalted), 1, "guest_halted")]
    [InlineData(nameof(MachineEndKind.VmmFailed), 1, "vmm_failed")]
    public void Should_report_every_end(string kind, int code, string reason) =>
        Assert.Equal(new ExitReport(code, reason, "m"), ExitReport.Of(new MachineEnd(Enum.Parse<MachineEndKind>(kind), "m")));

    [Fact]
    public void Should_run_from_a_file_without_an_API()
    {
        using var files = new ScratchDirectory();
        var machines = new FakeMachines();
        var config = files.File("config.json", $$"""
            {
              "boot-source": {"kernel_image_path": "{{files.File("kernel", "k")}}", "boot_args": "quiet"},
              "machine-config": {"vcpu_count": 2, "mem_size_mib": 64},
              "drives": [], "network-interfaces": [], "vsock": null,
              "metrics": {"metrics_path": "{{files.File("metrics")}}"},
              "fleet-status-port": {"output_path": "{{files.File("status.log")}}"},
              "serial": {"serial_out_path": "{{files.File("console")}}"}
            }
            """);
        using var vmm = new RunningVmm(machines, false, "--no-api", "--config-file", config);
        Assert.True(SpinWait.SpinUntil(() => machines.Calls.Contains("start"), RunningVmm.Patience));
        Assert.Equal(2, machines.Settings!.Vcpus);
        Assert.Equal("quiet", machines.Settings.BootArgs);
        Assert.Equal(files.File("status.log"), machines.Settings.StatusPortPath);
        Assert.Equal(files.File("console"), machines.Settings.Serial.OutputPath);
        Assert.False(File.Exists(vmm.Socket));
        vmm.Signal(SigTerm);
        Assert.Equal(0, vmm.WaitForExit());
        Assert.Equal(2, File.ReadAllLines(files.File("metrics")).Length);
    }

    [Theory]
    [InlineData("", "bad_configuration", "Invalid JSON: EOF while parsing a value")]
    [InlineData("{}", "bad_configuration", "missing field `boot-source` at line 1 column 2")]
    [InlineData("""{"boot-source": null}""", "bad_configuration", "invalid type: null, expected struct BootSourceConfig")]
    [InlineData("""{"boot-source": {"kernel_image_path": "/etc/passwd"}, "extra": 1}""", "bad_configuration", "unknown field `extra`")]
    [InlineData("""{"boot-source": {"kernel_image_path": "/etc/passwd"}, "drives": [{}]}""", "bad_configuration", "missing field `drive_id`")]
    [InlineData("""{"boot-source": {"kernel_image_path": "/etc/passwd"}} x""", "bad_configuration", "trailing characters")]
    [InlineData("""{"boot-source": {"kernel_image_path": "/no/such"}}""", "kernel_missing", "The kernel file cannot be opened")]
    [InlineData("""{"boot-source": {"kernel_image_path": "/etc/passwd", "initrd_path": "/no/such"}}""", "initrd_missing", "The initrd file cannot be opened")]
    [InlineData("""{"boot-source": {"kernel_image_path": "/etc/passwd"}, "machine-config": {"vcpu_count": 99, "mem_size_mib": 1}}""", "bad_configuration", "Machine config error")]
    public void Should_say_what_is_wrong_with_a_file(string text, string reason, string message)
    {
        using var files = new ScratchDirectory();
        using var vmm = new RunningVmm(null, false, "--config-file", files.File("config.json", text));
        Assert.Equal(152, vmm.WaitForExit());
        var report = vmm.ReadExitFile();
        Assert.Equal((152, reason), (report.Code, report.Reason));
        Assert.Contains(message, report.Message, StringComparison.Ordinal);
        Assert.Empty(vmm.Machines.Calls);
        Assert.False(File.Exists(vmm.Socket));
    }

    [Fact]
    public void Should_say_that_the_file_is_missing_or_too_large()
    {
        using var files = new ScratchDirectory();
        foreach (var (path, why) in new[] { ("/no/such/config", "No such file or directory"), (files.File("large", new string(' ', 1024 * 1024 + 1)), "larger than 1048576 bytes"), (files.Root, "not a regular file") })
        {
            using var vmm = new RunningVmm(null, false, "--config-file", path);
            Assert.Equal(152, vmm.WaitForExit());
            Assert.Contains(why, vmm.ReadExitFile().Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(nameof(MachineFault.KernelInvalid), 152, "kernel_invalid")]
    [InlineData(nameof(MachineFault.KernelMissing), 152, "kernel_missing")]
    [InlineData(nameof(MachineFault.InitrdInvalid), 152, "initrd_invalid")]
    [InlineData(nameof(MachineFault.BootArgsInvalid), 152, "boot_args_invalid")]
    [InlineData(nameof(MachineFault.OutOfMemory), 1, "out_of_memory")]
    [InlineData(nameof(MachineFault.KvmUnavailable), 1, "kvm_unavailable")]
    [InlineData(nameof(MachineFault.Other), 1, "vmm_failed")]
    public void Should_report_a_machine_that_could_not_be_built(string fault, int code, string reason)
    {
        using var files = new ScratchDirectory();
        var machines = new FakeMachines { BuildFailure = new MachineException(Enum.Parse<MachineFault>(fault), "why") };
        using var vmm = new RunningVmm(machines, false, "--config-file", files.File("c", $$"""{"boot-source": {"kernel_image_path": "{{files.File("kernel", "k")}}"} }"""));
        Assert.Equal(code, vmm.WaitForExit());
        Assert.Equal((code, reason, "Start microvm error: why"), vmm.ReadExitFile());
    }

    [Fact]
    public void Should_not_take_a_socket_that_is_there()
    {
        using var first = new RunningVmm();
        using var second = new RunningVmm(null, false, []);
        Assert.True(SpinWait.SpinUntil(() => File.Exists(second.Socket), RunningVmm.Patience));
        using var files = new ScratchDirectory();
        var exit = files.File("exit.json");
        var code = VmmProcess.Run(["--api-sock", first.Socket, "--exit-file", exit, "--log-path", files.File("log")], (_, _) => new FakeMachines(), TimeProvider.System, () => NoSignals());
        Assert.Equal(1, code);
        using var json = JsonDocument.Parse(File.ReadAllText(exit));
        Assert.Equal("api_socket_failed", json.RootElement.GetProperty("reason").GetString());
        Assert.StartsWith($"Failed to open the API socket at: {first.Socket}. Check that it is not already used. Address already in use (os error 98).", json.RootElement.GetProperty("message").GetString(), StringComparison.Ordinal);
        Assert.Equal(200, first.Request("GET", "/").Status);
    }

    [Theory]
    [InlineData("/no/such/dir/api.sock", "No such file or directory (os error 2)")]
    [InlineData("/tmp/ppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp", "A socket path has 1 to 107 bytes, this one has 108.")]
    public void Should_say_why_there_is_no_socket(string path, string why)
    {
        using var files = new ScratchDirectory();
        var exit = files.File("exit.json");
        Assert.Equal(1, VmmProcess.Run(["--api-sock", path, "--exit-file", exit, "--log-path", files.File("log")], (_, _) => new FakeMachines(), TimeProvider.System, () => NoSignals()));
        Assert.Contains(why, File.ReadAllText(exit), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_refuse_a_level_that_does_not_exist()
    {
        using var files = new ScratchDirectory();
        var exit = files.File("exit.json");
        Assert.Equal(152, VmmProcess.Run(["--level", "loud", "--exit-file", exit], (_, _) => new FakeMachines(), TimeProvider.System, () => NoSignals()));
        Assert.Contains("Invalid value for logger level: loud.", File.ReadAllText(exit), StringComparison.Ordinal);
        Assert.Equal(1, VmmProcess.Run(["--log-path", "/no/such/dir/log", "--exit-file", exit], (_, _) => new FakeMachines(), TimeProvider.System, () => NoSignals()));
        Assert.Contains("Could not initialize logger", File.ReadAllText(exit), StringComparison.Ordinal);
    }

    [Fact]
    [System.Runtime.Versioning.SupportedOSPlatform("linux")]
    public void Should_make_the_socket_for_its_owner_only()
    {
        using var vmm = new RunningVmm();
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(vmm.Socket));
    }

    [Fact]
    public void Should_replace_an_old_exit_file_and_follow_no_link()
    {
        using var files = new ScratchDirectory();
        var path = files.File("exit.json", "old");
        new ExitReport(1, "r", "a \"quoted\"\nmessage").WriteTo(path);
        Assert.Equal("{\"code\":1,\"reason\":\"r\",\"message\":\"a \\\"quoted\\\"\\nmessage\"}\n", File.ReadAllText(path));
        var victim = files.File("victim", "untouched");
        File.CreateSymbolicLink(path + ".new", victim);
        Assert.Throws<Fleet.Vmm.Linux.SystemCallException>(() => new ExitReport(0, "r", "m").WriteTo(path));
        Assert.Equal("untouched", File.ReadAllText(victim));
    }

    private static int NoSignals()
    {
        using var pipe = new System.IO.Pipes.AnonymousPipeServerStream(System.IO.Pipes.PipeDirection.In);
        return Native.fcntl((int)pipe.SafePipeHandle.DangerousGetHandle(), 1030, 0);
    }
}
