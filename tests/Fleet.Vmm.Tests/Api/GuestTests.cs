using System.Diagnostics;
using System.Text.Json;
using Fleet.Vmm.Linux;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>The whole program with a real guest: a few bytes of machine code on the real /dev/kvm.</summary>
public sealed class GuestTests
{
    private const ulong LoadAddress = 0x1000000;

    // mov dx,0x3f8; mov al,'k'; out dx,al      console output
    // mov dx,0x2f8; mov al,'S'; out dx,al      status port
    // l: mov dx,0x3fd; in al,dx; test al,1; jz l   wait for a byte
    // mov dx,0x3f8; in al,dx; out dx,al        echo it
    // mov al,0xfe; out 0x64,al; hlt            reset
    private static readonly byte[] Echo = Convert.FromHexString("66BAF803B06BEE66BAF802B053EE66BAFD03ECA80174F766BAF803ECEEB0FEE664F4");

    // jmp $
    private static readonly byte[] Spin = [0xEB, 0xFE];

    // ud2 without an IDT: a triple fault.
    private static readonly byte[] Crash = [0x0F, 0x0B];

    [SkippableFact]
    public void Should_boot_talk_pause_and_end_over_the_API()
    {
        RequireKvm();
        using var files = new ScratchDirectory();
        using var vmm = new Guest(files, Elf(files, Echo));
        vmm.Ok("PUT", "/machine-config", """{"vcpu_count": 2, "mem_size_mib": 32}""");
        vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{files.File("kernel")}}"}""");
        vmm.Ok("PUT", "/fleet/status-port", $$"""{"output_path": "{{files.File("status.log")}}"}""");
        vmm.Ok("PUT", "/metrics", $$"""{"metrics_path": "{{files.File("metrics")}}"}""");
        vmm.Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
        using (var vcpus = JsonDocument.Parse(vmm.Get("/fleet/vcpus")))
        {
            var threads = vcpus.RootElement.GetProperty("threads").EnumerateArray().Select(t => t.GetInt32()).ToList();
            Assert.Equal(2, threads.Distinct().Count());
            Assert.All(threads, thread => Assert.True(Directory.Exists($"/proc/{vmm.Process.Id}/task/{thread}")));
        }

        Assert.Equal('k', vmm.Process.StandardOutput.Read());
        vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
        Assert.Contains("\"Paused\"", vmm.Get("/"), StringComparison.Ordinal);
        vmm.Ok("PATCH", "/vm", """{"state": "Resumed"}""");
        vmm.Ok("PUT", "/actions", """{"action_type": "FlushMetrics"}""");
        vmm.Process.StandardInput.Write('x');
        vmm.Process.StandardInput.Flush();
        Assert.Equal((0, "guest_shutdown"), vmm.End());
        Assert.Equal("x", vmm.Process.StandardOutput.ReadToEnd());
        Assert.Equal("S", File.ReadAllText(files.File("status.log")));
        var lines = File.ReadAllLines(files.File("metrics"));
        Assert.Equal(3, lines.Length);
        Assert.All(lines, line => JsonDocument.Parse(line).Dispose());
        Assert.False(File.Exists(files.File("api.sock")));
    }

    [SkippableFact]
    public void Should_stop_a_guest_that_spins_paused_or_not()
    {
        RequireKvm();
        foreach (var paused in new[] { false, true })
        {
            using var files = new ScratchDirectory();
            using var vmm = new Guest(files, Elf(files, Spin));
            vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{files.File("kernel")}}"}""");
            vmm.Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
            if (paused)
            {
                vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
            }

            Assert.Equal(0, Native.kill(vmm.Process.Id, Signals.Terminate));
            Assert.Equal((0, "stopped"), vmm.End());
        }
    }

    /// <summary>A thread without CPU time looks like one in hlt; taking the one for the other once killed healthy guests.</summary>
    [SkippableFact]
    public void Should_wait_for_a_vcpu_that_the_host_holds_up()
    {
        RequireKvm();
        using var files = new ScratchDirectory();

        // A guest without exits: a thread that is frozen inside our own code would hold up its runtime, and so the loop too.
        using var vmm = new Guest(files, Elf(files, Spin));
        vmm.Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{files.File("kernel")}}"}""");
        vmm.Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
        using var vcpus = JsonDocument.Parse(vmm.Get("/fleet/vcpus"));
        var thread = vcpus.RootElement.GetProperty("threads")[0].GetInt32();
        using (var frozen = FreezeInKvm(vmm.Process.Id, thread))
        {
            // The kick says that the watch has ordered the vCPU out of the guest; the answer, that it did not insist.
            Assert.True(SpinWait.SpinUntil(() => frozen.HasPending(ThreadKick.Signal), RunningVmm.Patience), "nobody looked at the vCPU");
            Assert.Contains("\"Running\"", vmm.Get("/"), StringComparison.Ordinal);
        }

        vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
        vmm.Ok("PATCH", "/vm", """{"state": "Resumed"}""");
        Assert.Equal(0, Native.kill(vmm.Process.Id, Signals.Terminate));
        Assert.Equal((0, "stopped"), vmm.End());
    }

    // A thread that has just begun is still on its way there.
    private static FrozenThread FreezeInKvm(int process, int thread)
    {
        const int Ioctl = 16;
        FrozenThread? frozen = null;
        Assert.True(
            SpinWait.SpinUntil(
                () =>
                {
                    frozen?.Dispose();
                    frozen = new FrozenThread(process, thread);
                    return frozen.IsIn(Ioctl);
                },
                RunningVmm.Patience),
            "the vCPU is never in the guest");
        return frozen!;
    }

    [SkippableFact]
    public void Should_tell_a_crashed_guest_from_a_file()
    {
        RequireKvm();
        using var files = new ScratchDirectory();
        var config = files.File("config.json", $$"""{"boot-source": {"kernel_image_path": "{{Elf(files, Crash)}}"}, "machine-config": {"vcpu_count": 1, "mem_size_mib": 32} }""");
        using var vmm = new Guest(files, "--config-file", config, "--no-api");
        Assert.Equal((1, "guest_crashed"), vmm.End());
    }

    [Fact]
    public void Should_tell_that_the_kernel_is_none()
    {
        using var files = new ScratchDirectory();
        var config = files.File("config.json", $$"""{"boot-source": {"kernel_image_path": "{{files.File("kernel", "no ELF and no bzImage")}}"} }""");
        using var vmm = new Guest(files, "--config-file", config);
        Assert.Equal((152, "kernel_invalid"), vmm.End());
    }

    private static void RequireKvm() => Skip.IfNot(File.Exists("/dev/kvm"), "no /dev/kvm");

    /// <summary>The smallest 64-bit ELF executable around the code: one header, one segment.</summary>
    private static string Elf(ScratchDirectory files, byte[] code)
    {
        var elf = new byte[120 + code.Length];
        using var writer = new BinaryWriter(new MemoryStream(elf));
        writer.Write([0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        writer.Write((ushort)2);
        writer.Write((ushort)62);
        writer.Write(1);
        writer.Write(LoadAddress);
        writer.Write(64ul);
        writer.Write(0ul);
        writer.Write(0);
        foreach (var number in (ReadOnlySpan<ushort>)[64, 56, 1, 0, 0, 0])
        {
            writer.Write(number);
        }

        writer.Write(1);
        writer.Write(5);
        foreach (var number in (ReadOnlySpan<ulong>)[120, LoadAddress, LoadAddress, (ulong)code.Length, (ulong)code.Length, 1])
        {
            writer.Write(number);
        }

        writer.Write(code);
        var path = files.File("kernel");
        File.WriteAllBytes(path, elf);
        return path;
    }

    private sealed class Guest : IDisposable
    {
        private readonly ScratchDirectory _files;

        /// <summary>With an API; the kernel is configured by the test.</summary>
        public Guest(ScratchDirectory files, string kernel)
            : this(files, ["--api-sock", files.File("api.sock")])
        {
            Assert.True(File.Exists(kernel));
            Assert.True(SpinWait.SpinUntil(Answers, RunningVmm.Patience), "no API");
        }

        public Guest(ScratchDirectory files, params string[] arguments)
        {
            _files = files;
            Process = Process.Start(new ProcessStartInfo(
                Path.Combine(AppContext.BaseDirectory, "fleet-vmm"),
                ["--exit-file", files.File("exit.json"), "--log-path", files.File("log"), .. arguments])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
            })!;
        }

        public Process Process { get; }

        public void Ok(string method, string path, string body)
        {
            using var client = new RawClient(_files.File("api.sock"));
            Assert.Equal((204, ""), client.Request(method, path, body));
        }

        public string Get(string path)
        {
            using var client = new RawClient(_files.File("api.sock"));
            var (status, body) = client.Request("GET", path);
            Assert.Equal(200, status);
            return body;
        }

        /// <summary>Exit code and reason.</summary>
        public (int Code, string Reason) End()
        {
            Assert.True(Process.WaitForExit(RunningVmm.Patience), "the VMM did not end");
            using var json = JsonDocument.Parse(File.ReadAllText(_files.File("exit.json")));
            Assert.Equal(Process.ExitCode, json.RootElement.GetProperty("code").GetInt32());
            return (Process.ExitCode, json.RootElement.GetProperty("reason").GetString()!);
        }

        public void Dispose()
        {
            Process.Kill();
            Process.WaitForExit();
            Process.Dispose();
        }

        private bool Answers()
        {
            try
            {
                return Get("/").Length > 0;
            }
            catch (System.Net.Sockets.SocketException)
            {
                return false;
            }
        }
    }
}
