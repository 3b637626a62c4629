using System.Diagnostics;
using Fleet.Tests;
using Fleet.Vmm.Tests.Api;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>The program itself: one process takes a snapshot of a guest on the real KVM, another one goes on with it.</summary>
public sealed class SnapshotProcessTests : IDisposable
{
    private readonly ScratchDirectory _files = new();
    private readonly List<Process> _processes = [];

    // The native program where it was built, since only that gives up system calls.
    private static string Program => Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm") is var native && File.Exists(native)
        ? native
        : Path.Combine(AppContext.BaseDirectory, "fleet-vmm");

    private string State => _files.File("vmstate");

    private string Memory => _files.File("mem");

    [SkippableFact]
    public void Should_go_on_in_a_new_process_with_another_drive()
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        File.WriteAllBytes(_files.File("kernel"), SteppingGuests.Counter);
        File.WriteAllText(_files.File("disk"), new string('d', 1024));
        File.WriteAllText(_files.File("other"), new string('o', 2048));
        using (var first = Start("one"))
        {
            first.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{_files.File("kernel")}}"}""");
            first.Ok("PUT", "/machine-config", """{"vcpu_count": 2, "mem_size_mib": 32, "track_dirty_pages": true}""");
            first.Ok("PUT", "/drives/disk", $$"""{"drive_id": "disk", "is_root_device": false, "path_on_host": "{{_files.File("disk")}}"}""");
            first.Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
            Assert.Equal("12", first.Step("aa", 2));
            first.Ok("PATCH", "/vm", """{"state": "Paused"}""");
            first.Ok("PUT", "/snapshot/create", $$"""{"snapshot_path": "{{State}}", "mem_file_path": "{{Memory}}"}""");
            first.Ok("PATCH", "/vm", """{"state": "Resumed"}""");
            Assert.Equal("3", first.Step("a", 1));
            first.Ok("PATCH", "/vm", """{"state": "Paused"}""");
            first.Ok("PUT", "/snapshot/create", $$"""{"snapshot_path": "{{State}}2", "mem_file_path": "{{Memory}}.diff", "snapshot_type": "Diff"}""");
        }

        File.Delete(_files.File("kernel"));
        File.Delete(_files.File("disk"));
        using (var second = Start("two"))
        {
            second.Ok("PUT", "/snapshot/load", $$"""
                {"snapshot_path": "{{State}}", "mem_backend": {"backend_type": "File", "backend_path": "{{Memory}}"}, "resume_vm": true,
                 "drive_overrides": [{"drive_id": "disk", "path_on_host": "{{_files.File("other")}}"}]}
                """);
            Assert.Equal("34", second.Step("aa", 2));
            Assert.Contains("\"Running\"", second.Request("GET", "/").Body, StringComparison.Ordinal);
            second.Type("q");
            Assert.Equal(0, second.WaitForExit());
        }

        Assert.Equal((0, "v1.0.0\n"), Run("--describe-snapshot", State));
        Assert.Equal((0, "v1.0.0\n"), Run("--snapshot-version"));
        Assert.Equal((0, ""), Run("--merge-diff", Memory + ".diff", "--into", Memory));
        using var third = Start("three");
        third.Ok("PUT", "/snapshot/load", $$"""
            {"snapshot_path": "{{State}}2", "mem_file_path": "{{Memory}}", "drive_overrides": [{"drive_id": "disk", "path_on_host": "{{_files.File("other")}}"}]}
            """);
        Assert.Contains("\"Paused\"", third.Request("GET", "/").Body, StringComparison.Ordinal);
        third.Ok("PATCH", "/vm", """{"state": "Resumed"}""");
        Assert.Equal("4", third.Step("a", 1));
    }

    [SkippableFact]
    public void Should_let_a_handler_fill_the_memory_and_write_what_is_there()
    {
        Skip.IfNot(File.Exists("/dev/kvm") && File.Exists("/dev/userfaultfd"), "there is no /dev/kvm or no /dev/userfaultfd on this machine");
        File.WriteAllBytes(_files.File("kernel"), SteppingGuests.Counter);
        using (var first = Start("one"))
        {
            first.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{_files.File("kernel")}}"}""");
            first.Ok("PUT", "/machine-config", """{"vcpu_count": 1, "mem_size_mib": 32}""");
            first.Ok("PUT", "/cpu-config", """{"kvm_capabilities": ["1"], "msr_modifiers": [{"addr": "0x10", "bitmap": "0bx"}]}""");
            first.Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
            Assert.Equal("12", first.Step("aa", 2));
            first.Ok("PATCH", "/vm", """{"state": "Paused"}""");
            first.Ok("PUT", "/snapshot/create", $$"""{"snapshot_path": "{{State}}", "mem_file_path": "{{Memory}}"}""");
        }

        using var server = new MemoryServer(_files.File("h.sock"), Memory);
        using (var second = Start("two"))
        {
            second.Ok("PUT", "/snapshot/load", $$"""
                {"snapshot_path": "{{State}}", "mem_backend": {"backend_type": "Uffd", "backend_path": "{{_files.File("h.sock")}}"}, "resume_vm": true}
                """);
            Assert.Equal("3", second.Step("a", 1));
            second.Ok("PATCH", "/vm", """{"state": "Paused"}""");
            second.Ok("PUT", "/snapshot/create", $$"""{"snapshot_path": "{{State}}2", "mem_file_path": "{{Memory}}.diff", "snapshot_type": "Diff"}""");
        }

        Assert.Equal((0, ""), Run("--merge-diff", Memory + ".diff", "--into", Memory));
        using var third = Start("three");
        third.Ok("PUT", "/snapshot/load", $$"""{"snapshot_path": "{{State}}2", "mem_file_path": "{{Memory}}", "resume_vm": true}""");
        Assert.Equal("4", third.Step("a", 1));
    }

    [Fact]
    public void Should_say_what_is_wrong_with_a_file()
    {
        File.WriteAllText(State, "nothing of ours");
        Assert.Equal((1, ""), Run("--describe-snapshot", State));
        Assert.Equal((1, ""), Run("--merge-diff", Memory, "--into", State));
        Assert.Equal((153, ""), Run("--merge-diff", Memory));
    }

    public void Dispose()
    {
        foreach (var process in _processes)
        {
            if (!process.HasExited)
            {
                process.Kill();
                process.WaitForExit();
            }

            process.Dispose();
        }

        _files.Dispose();
    }

    private (int Code, string Output) Run(params string[] arguments)
    {
        var process = Launch(arguments);
        process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        Assert.True(process.WaitForExit(RunningVmm.Patience));
        return (process.ExitCode, output);
    }

    private LiveVmm Start(string name)
    {
        var socket = _files.File(name + ".sock");
        return new LiveVmm(Launch("--api-sock", socket, "--log-path", _files.File(name + ".log"), "--id", name), socket);
    }

    private Process Launch(params string[] arguments)
    {
        var process = Process.Start(new ProcessStartInfo(Program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        _processes.Add(process);
        return process;
    }

    /// <summary>A running process with its API and its guest's console.</summary>
    private sealed class LiveVmm : IDisposable
    {
        private readonly Process _process;
        private readonly string _socket;

        public LiveVmm(Process process, string socket)
        {
            _process = process;
            _socket = socket;
            Assert.True(SpinWait.SpinUntil(() => Listens() || process.HasExited, RunningVmm.Patience), "no API socket");
        }

        public (int Status, string Body) Request(string method, string path, string? body = null)
        {
            using var client = new RawClient(_socket);
            return client.Request(method, path, body);
        }

        public void Ok(string method, string path, string body) => Assert.Equal((204, ""), Request(method, path, body));

        public void Type(string text)
        {
            _process.StandardInput.Write(text);
            _process.StandardInput.Flush();
        }

        public string Step(string typed, int answered)
        {
            Type(typed);
            var buffer = new char[answered];
            var read = Task.Run(() => _process.StandardOutput.ReadBlock(buffer));
            Assert.True(read.Wait(RunningVmm.Patience), "the guest does not answer");
            return new string(buffer);
        }

        public int WaitForExit()
        {
            Assert.True(_process.WaitForExit(RunningVmm.Patience));
            return _process.ExitCode;
        }

        public void Dispose()
        {
            if (!_process.HasExited)
            {
                _process.Kill();
                _process.WaitForExit();
            }
        }

        private bool Listens()
        {
            try
            {
                using var client = new RawClient(_socket);
                return client.Request("GET", "/").Status == 200;
            }
            catch (System.Net.Sockets.SocketException)
            {
                return false;
            }
        }
    }
}
