using Fleet.Host.Tests.Images.Oci;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Agent;

/// <summary>Images by way of the agent: the simulated driver boots nothing, all before it is real.</summary>
public sealed class AgentImageTests : AgentTest
{
    [Fact]
    public async Task Fifty_microVMs_of_one_image_take_one_pull_and_say_what_they_wait_for()
    {
        var image = TestImage.Small();
        using var registry = new FakeRegistry(image);
        using var goOn = new ManualResetEventSlim();
        registry.Fault = context =>
        {
            if (context.Request.RawUrl!.Contains("/blobs/", StringComparison.Ordinal)) goOn.Wait();
            return false;
        };
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        Assert.Empty(stream.Hello.Inventory.Images);
        for (var i = 0; i < 50; i++) await stream.SendAsync(Start(IdOf(i), registry.Reference));
        await stream.ExpectAsync(message => message.Report is { State: HostVmState.Launching, Reason.Code: "pulling_image" });
        // The agent's actor waits for none of it.
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        goOn.Set();

        var running = new HashSet<string>();
        while (running.Count < 50)
        {
            var report = (await stream.ExpectAsync(message => message.Report is { State: HostVmState.Running })).Report;
            await stream.AckAsync(report);
            if (report.VmId != Id) running.Add(report.VmId);
        }

        Assert.All(image.Layers, layer => Assert.Equal(1, registry.Asked(layer)));
    }

    [Fact]
    public async Task An_image_that_can_not_be_had_fails_with_its_code_before_anything_ran()
    {
        using var registry = new FakeRegistry(TestImage.Of([new TarMaker().Add('3', "dev/mem").ToArray()]));
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Start(IdOf(1), registry.Reference));
        await stream.SendAsync(Start(IdOf(2), registry.Reference + "x"));
        var refused = await stream.ExpectReportAsync(IdOf(1), HostVmState.Failed);
        Assert.Equal(("image_refused", true), (refused.Reason.Code, refused.NeverRan));
        var missing = await stream.ExpectReportAsync(IdOf(2), HostVmState.Failed);
        Assert.Equal(("image_not_found", true), (missing.Reason.Code, missing.NeverRan));
    }

    [Fact]
    public async Task A_stop_ends_a_pull_and_the_next_agent_goes_on_with_what_was_under_way()
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image);
        var blob = image.Blobs[image.Layers[0]];
        using var hold = new ManualResetEventSlim();
        var first = true;
        registry.Fault = context =>
        {
            if (!first || !context.Request.RawUrl!.Contains(image.Layers[0], StringComparison.Ordinal)) return false;
            first = false;
            context.Response.ContentLength64 = blob.Length;
            context.Response.OutputStream.Write(blob, 0, 1 << 20);
            context.Response.OutputStream.Flush();
            hold.Wait();
            context.Response.Abort();
            return true;
        };
        string left;
        await using (await StartAsync())
        {
            var stream = await Scheduler.NextAsync();
            await stream.SendAsync(Start(IdOf(1), registry.Reference));
            await UntilAsync("a part of the layer", () => Directory.Exists(Path.Combine(Root, "images", "layers"))
                && Directory.GetFiles(Path.Combine(Root, "images", "layers"), "*.part").Any(part => new FileInfo(part).Length >= 1 << 20));
            // As a kill would leave it.
            left = Snapshot();
            await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = IdOf(1), Epoch = 1 } });
            var ended = await stream.ExpectReportAsync(IdOf(1), HostVmState.Ended);
            Assert.Equal("stop_requested", ended.Reason.Code);
        }

        hold.Set();
        // What was under way begins only under a lease.
        Scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000, Lease = new Lease { LifetimeMs = 60_000, EndsAfterMs = 60_000 } } };
        await using var next = await StartAsync(root: left);
        var again = await Scheduler.NextAsync();
        await again.ExpectReportAsync(IdOf(1), HostVmState.Running);
        Assert.Contains(registry.Requests, request => request.Range == $"bytes={1 << 20}-");
    }

    [Fact]
    public async Task A_host_tells_which_images_it_has()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        await using (await StartAsync())
        {
            var stream = await Scheduler.NextAsync();
            await stream.SendAsync(Start(IdOf(1), registry.Reference));
            await stream.ExpectReportAsync(IdOf(1), HostVmState.Running);
            await stream.ExpectAsync(message => message.Images is { } held && held.Names.SequenceEqual([registry.Reference]));
        }

        await using var next = await StartAsync();
        Assert.Equal([registry.Reference], (await Scheduler.NextAsync()).Hello.Inventory.Images);
    }

    private static SchedulerMessage Start(string id, string image)
    {
        var launch = Launch(id: id);
        launch.Launch.Spec.Image = image;
        return launch;
    }
}
