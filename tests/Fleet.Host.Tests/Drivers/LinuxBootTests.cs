using System.Text;
using System.Threading.Channels;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Guests;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;

namespace Fleet.Host.Tests.Drivers;

/// <summary>The default image, booted for real under QEMU.</summary>
[Trait("Kind", "Slow")]
public sealed class LinuxBootTests
{
    private static readonly TimeSpan Boot = TimeSpan.FromSeconds(120);

    [SkippableFact]
    public async Task Should_run_a_command_and_tell_its_status()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var driver = new QemuDriver(Scratch.Options(images));
        var launch = scratch.Launch(Spec("sh", "-c", "echo hello from $(uname -r) on $(nproc) cpus; exit 7"));

        await using var vmm = await driver.LaunchAsync(launch, default);

        Assert.Equal(2, (await vmm.VcpuThreads).Count);
        await vmm.GuestReady.WaitAsync(Boot);
        var end = await vmm.Completion.WaitAsync(Boot);
        Assert.Equal((true, "command_exited", 7), (end.InOrder, end.Reason.Code, end.Exit?.Status));
        Assert.Matches(@"^hello from 6\.1\S* on 2 cpus\r?\n$", File.ReadAllText(Path.Combine(launch.Directory, ConsoleLog.FileName)));
        Assert.False(File.Exists(Path.Combine(launch.Directory, VmmFiles.Initrd)));
    }

    [SkippableFact]
    public async Task Should_let_the_guest_end_in_its_grace()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var driver = new QemuDriver(Scratch.Options(images));
        var launch = scratch.Launch(Spec("sh", "-c", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done"));
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Boot);
        // The shell needs a moment to set its trap; what ends the grace is the guest, not the clock.
        await vmm.StopAsync(Boot).WaitAsync(Boot);
        var end = await vmm.Completion;
        Assert.Equal((true, "stop_requested"), (end.InOrder, end.Reason.Code));
        Assert.NotNull(end.Exit);
    }

    [SkippableFact]
    public async Task Should_stop_a_guest_that_is_still_booting()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var driver = new QemuDriver(Scratch.Options(images));
        await using var vmm = await driver.LaunchAsync(scratch.Launch(Spec("sleep", "1000")), default);
        await vmm.StopAsync(Boot).WaitAsync(Boot);
        Assert.Equal("stop_requested", (await vmm.Completion).Reason.Code);
    }

    [SkippableFact]
    public async Task Should_carry_a_conversation_over_the_console()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var driver = new QemuDriver(Scratch.Options(images));
        var launch = scratch.Launch(Spec("sh", "-c", "read name; echo you are $name; exit 4"));
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Boot);
        await vmm.WriteConsoleAsync("fleet\n"u8.ToArray(), default);
        var end = await vmm.Completion.WaitAsync(Boot);
        Assert.Equal(4, end.Exit?.Status);
        Assert.Contains("you are fleet", File.ReadAllText(Path.Combine(launch.Directory, ConsoleLog.FileName)), StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task Should_survive_a_flood_and_a_change_of_agents()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var launch = scratch.Launch(Spec("yes", "0123456789abcdef0123456789abcdef"));
        var first = await new QemuDriver(Scratch.Options(images)).LaunchAsync(launch, default);
        await first.GuestReady.WaitAsync(Boot);
        await first.DisposeAsync();

        await using var vmm = await new QemuDriver(Scratch.Options(images)).AdoptAsync(launch, default);
        Assert.NotNull(vmm);

        Assert.Equal(first.Pid, vmm.Pid);
        using var stop = new CancellationTokenSource(Boot);
        long seen = 0;
        await foreach (var chunk in new ConsoleLog(launch.Directory).ReadAsync(null, follow: true, vmm.Completion, stop.Token))
        {
            seen += chunk.Data.Length;
            Assert.Contains("0123456789abcdef", Encoding.ASCII.GetString(chunk.Data.Span) + "0123456789abcdef", StringComparison.Ordinal);
            if (seen > 64 * 1024) break;
        }
        Assert.False(vmm.Completion.IsCompleted);
        await vmm.StopAsync(TimeSpan.Zero).WaitAsync(Boot);
        Assert.Equal("stop_requested", (await vmm.Completion).Reason.Code);
    }

    /// <summary>When an agent is gone in the middle, what it had run is ended, and the next is served.</summary>
    [SkippableFact]
    public async Task Should_run_commands_beside_the_microvms_own()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var driver = new QemuDriver(Scratch.Options(images));
        await using var vmm = await driver.LaunchAsync(scratch.Launch(Spec("sleep", "1000")), default);
        await vmm.GuestReady.WaitAsync(Boot);
        await using (var first = await ExecAsync(vmm, "sh", "-c", "echo $$ > /tmp/left; trap '' HUP; echo up; sleep 1000"))
            Assert.Equal("up\n", Encoding.ASCII.GetString((await first.NextAsync(FrameType.Output)).Span));

        await using (var second = await ExecAsync(vmm, "sh", "-c", "while kill -0 $(cat /tmp/left) 2>/dev/null; do sleep 0.1; done; uname -s; echo err >&2; exit 5"))
        {
            Assert.Equal("Linux\n", Encoding.ASCII.GetString((await second.NextAsync(FrameType.Output)).Span));
            Assert.Equal("err\n", Encoding.ASCII.GetString((await second.NextAsync(FrameType.Errors)).Span));
            Assert.Equal(5, (await second.NextAsync(FrameType.Exit)).Span[0]);
        }
        await vmm.StopAsync(TimeSpan.Zero).WaitAsync(Boot);
    }

    [SkippableFact]
    public async Task Should_end_a_guest_whose_health_check_fails()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var driver = new QemuDriver(Scratch.Options(images));
        var spec = Spec("sleep", "1000");
        spec.Health = new HealthCheck { Port = 80, HttpPath = "/", IntervalSeconds = 1, TimeoutSeconds = 2, Failures = 2 };
        var launch = scratch.Launch(spec);
        await using var vmm = await driver.LaunchAsync(launch, default);
        var end = await vmm.Completion.WaitAsync(Boot);
        Assert.Equal((false, "unhealthy"), (end.InOrder, end.Reason.Code));
        Assert.Contains("port 80", end.Reason.Message, StringComparison.Ordinal);
        Assert.Contains("unhealthy", File.ReadAllText(Path.Combine(launch.Directory, ConsoleLog.FileName)), StringComparison.Ordinal);
    }

    private static async Task<Exec> ExecAsync(IVmm vmm, params string[] argv)
    {
        var frames = Channel.CreateUnbounded<(FrameType, ReadOnlyMemory<byte>)>();
        using var limit = new CancellationTokenSource(Boot);
        var connection = await vmm.ConnectGuestAsync(limit.Token);
        Assert.NotNull(connection);
        var conversation = await GuestConversation.BeginAsync(connection, (type, _, payload) => { frames.Writer.TryWrite((type, payload.ToArray())); return default; }, limit.Token);
        conversation.TrySend(FrameType.Open, conversation.NextStream(), System.Text.Json.JsonSerializer.SerializeToUtf8Bytes(new { argv }));
        return new Exec(conversation, frames.Reader);
    }

    private sealed record Exec(GuestConversation Conversation, ChannelReader<(FrameType Type, ReadOnlyMemory<byte> Payload)> Frames) : IAsyncDisposable
    {
        public async Task<ReadOnlyMemory<byte>> NextAsync(FrameType wanted)
        {
            using var limit = new CancellationTokenSource(Boot);
            while (true)
            {
                var (type, payload) = await Frames.ReadAsync(limit.Token);
                if (type == wanted) return payload;
                Assert.True(type == FrameType.Started, $"{type}: {Encoding.UTF8.GetString(payload.Span)}");
            }
        }

        public ValueTask DisposeAsync() => Conversation.DisposeAsync();
    }

    private static VmSpec Spec(params string[] command)
    {
        var spec = new VmSpec { Name = "hello", Cpus = 2, MemoryMib = 256 };
        spec.Command.AddRange(command);
        return spec;
    }
}
