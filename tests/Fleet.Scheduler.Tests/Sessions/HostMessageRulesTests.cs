using CsCheck;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Xunit;

namespace Fleet.Scheduler.Tests.Sessions;

public sealed class HostMessageRulesTests
{
    private const string Vm = "vm-00000000000000000000000001";

    private static HostMessage Hello(Action<Hello>? change = null)
    {
        var hello = new Hello { HostId = "rack1-7", Inventory = FakeAgent.Simulated(4, 1024), AgentVersion = "0.1.0", BootId = "b", AgentInstance = "i" };
        change?.Invoke(hello);
        return new HostMessage { Hello = hello };
    }

    private static VmReport Report(Action<VmReport>? change = null)
    {
        var report = new VmReport { VmId = Vm, Epoch = 1, Sequence = 1, State = HostVmState.Running };
        change?.Invoke(report);
        return report;
    }

    /// <summary>A host with as many microVMs as it may have, all of them with the longest reason, must get in again.</summary>
    [Fact]
    public void Should_keep_the_largest_hello_within_a_message()
    {
        var reason = new Reason { Code = new string('c', 64), Message = ReasonText.Shorten(new string('x', 5000)) };
        var hello = Hello(hello => hello.Vms.AddRange(Enumerable.Range(0, VmLimits.MaxVmsPerHost)
            .Select(i => Report(report => (report.VmId, report.Reason, report.Driver) = ($"vm-{i:d26}", reason, new string('d', 64))))));
        Assert.Null(HostMessageRules.Check(hello));
        Assert.InRange(hello.CalculateSize(), 1, 4 * 1024 * 1024);
    }

    [Fact]
    public void Should_take_what_a_good_agent_sends()
    {
        Assert.Null(HostMessageRules.Check(Hello(hello => hello.Vms.Add(Report()))));
        Assert.Null(HostMessageRules.Check(new HostMessage { Report = Report() }));
        Assert.Null(HostMessageRules.Check(new HostMessage { Heartbeat = new Heartbeat() }));
        Assert.Null(HostMessageRules.Check(new HostMessage { Console = new ConsoleChunk { StreamId = 1, Data = ByteString.CopyFrom(new byte[65536]) } }));
        Assert.Null(HostMessageRules.Check(Limiter(figure => figure.InForce = new RateLimit { Ops = new TokenBucket { Size = 1, RefillTimeMs = 1 } })));
        Assert.Null(HostMessageRules.Check(new HostMessage { Goodbye = new Goodbye { Reason = "upgrade" } }));
    }

    private static HostMessage Limiter(Action<LimiterFigure> change, int times = 1)
    {
        var figures = new LimiterFigures();
        for (var i = 0; i < times; i++)
        {
            var figure = new LimiterFigure { VmId = Vm, Epoch = 1, Name = "entropy" };
            change(figure);
            figures.Limiters.Add(figure);
        }
        return new HostMessage { Limiters = figures };
    }

    private static HostMessage Usage(int times, Action<VmUse>? change = null)
    {
        var sample = new UsageSample { Sequence = 1 };
        for (var i = 0; i < times; i++)
        {
            var use = new VmUse { VmId = Vm, Epoch = 1, CpuMillis = uint.MaxValue, MemoryKib = ulong.MaxValue };
            change?.Invoke(use);
            sample.Vms.Add(use);
        }
        return new HostMessage { Usage = sample };
    }

    [Fact]
    public void Should_leave_absurd_figures_to_the_series() => Assert.Null(HostMessageRules.Check(Usage(1)));

    public static TheoryData<string, HostMessage> Wrong => new()
    {
        { "limiters", Limiter(figure => figure.VmId = "\"}") },
        { "limiters", Limiter(figure => figure.Epoch = 0) },
        { "limiters", Limiter(figure => figure.Name = "x\"") },
        { "input_taken", new HostMessage { InputTaken = new ConsoleInputTaken { VmId = "x", Messages = 1 } } },
        { "twice", Limiter(_ => { }, times: 2) },
        { "limiters", Limiter(_ => { }, times: 5000) },
        { "size", Limiter(figure => figure.InForce = new RateLimit { Ops = new TokenBucket { Size = ulong.MaxValue, RefillTimeMs = 1 } }) },
        { "usage", Usage(1, use => use.VmId = "x") },
        { "usage", Usage(1, use => use.Epoch = 0) },
        { "twice", Usage(2) },
        { "usage", Usage(5000) },
        { "body", new HostMessage() },
        { "host_id", Hello(hello => hello.HostId = "") },
        { "pressure", Hello(hello => hello.Pressure = new PressureReport { Cpu = PressureRung.Calm, Memory = (PressureRung)77 }) },
        { "host_id", Hello(hello => hello.HostId = "Rack") },
        { "host_id", Hello(hello => hello.HostId = "-rack") },
        { "host_id", Hello(hello => hello.HostId = new string('a', 41)) },
        { "host_id", Hello(hello => hello.HostId = "rack\n") },
        { "cpus", Hello(hello => hello.Inventory.Cpus = 0) },
        { "cpus", Hello(hello => hello.Inventory.Cpus = uint.MaxValue) },
        { "memory", Hello(hello => hello.Inventory.MemoryMib = ulong.MaxValue) },
        { "disk_mib", Hello(hello => hello.Inventory.DiskMib = ulong.MaxValue) },
        { "network_mbit", Hello(hello => hello.Inventory.NetworkMbit = ulong.MaxValue) },
        { "iops", Hello(hello => hello.Inventory.Iops = ulong.MaxValue) },
        { "cpu_templates", Hello(hello => hello.Inventory.CpuTemplates.AddRange(Enumerable.Range(0, 65).Select(i => $"t{i}"))) },
        { "cpu_templates", Hello(hello => hello.Inventory.CpuTemplates.Add("t\n")) },
        { "volumes", Hello(hello => hello.Inventory.Volumes.AddRange(Enumerable.Range(0, 2049).Select(i => new HeldVolume { Name = $"v{i}" }))) },
        { "volumes", new HostMessage { Volumes = new VolumesHeld { Volumes = { new HeldVolume { Name = "data", SizeMib = ulong.MaxValue } } } } },
        { "volumes", new HostMessage { Volumes = new VolumesHeld { Volumes = { new HeldVolume { Name = "../x" } } } } },
        { "twice", new HostMessage { Volumes = new VolumesHeld { Volumes = { new HeldVolume { Name = "data" }, new HeldVolume { Name = "data" } } } } },
        { "drivers", Hello(hello => hello.Inventory.Drivers.AddRange(Enumerable.Range(0, 20).Select(_ => new DriverStatus()))) },
        { "images", new HostMessage { Images = new ImagesHeld { Names = { Enumerable.Range(0, 257).Select(i => $"a:{i}") } } } },
        { "images", Hello(hello => hello.Inventory.Images.AddRange(Enumerable.Range(0, 257).Select(i => $"a:{i}"))) },
        { "image", Hello(hello => hello.Inventory.Images.Add(new string('x', 1025))) },
        { "image", Hello(hello => hello.Inventory.Images.Add("a\n")) },
        { "label", Hello(hello => hello.Inventory.Labels["a"] = new string('x', 300)) },
        { "twice", Hello(hello => hello.Vms.AddRange([Report(), Report()])) },
        { "vms", Hello(hello => hello.Vms.AddRange(Enumerable.Range(0, 5000).Select(_ => Report()))) },
        { "agent_version", Hello(hello => hello.AgentVersion = new string('x', 100)) },
        { "vm_id", new HostMessage { Report = Report(report => report.VmId = "../../etc/passwd") } },
        { "vm_id", new HostMessage { Report = Report(report => report.VmId = Vm + "0") } },
        { "epoch", new HostMessage { Report = Report(report => report.Epoch = 0) } },
        { "state", new HostMessage { Report = Report(report => report.State = HostVmState.Unspecified) } },
        { "state", new HostMessage { Report = Report(report => report.State = (HostVmState)77) } },
        { "exit", new HostMessage { Report = Report(report => report.Exit = new GuestExit { Status = 256 }) } },
        { "reason.code", new HostMessage { Report = Report(report => report.Reason = new Reason { Code = "Not A Code" }) } },
        { "console", new HostMessage { Console = new ConsoleChunk { StreamId = 1, Data = ByteString.CopyFrom(new byte[65537]) } } },
    };

    [Theory]
    [MemberData(nameof(Wrong))]
    public void Should_name_what_is_wrong(string names, HostMessage message) =>
        Assert.Contains(names, HostMessageRules.Check(message) ?? "nothing", StringComparison.Ordinal);

    [Fact]
    public void Should_cut_long_sentences_instead_of_the_stream()
    {
        var text = new string('x', 5000);
        var hello = Hello(hello =>
        {
            hello.Inventory.Drivers[0].Detail = text;
            hello.Vms.Add(Report(report => report.Reason = new Reason { Code = "a", Message = text }));
        });
        HostMessageRules.Shorten(hello);
        Assert.Null(HostMessageRules.Check(hello));
        Assert.Equal(ReasonText.Shorten(text), hello.Hello.Inventory.Drivers[0].Detail);
        Assert.Equal(ReasonText.Shorten(text), hello.Hello.Vms[0].Reason.Message);
        foreach (var message in new[]
        {
            new HostMessage { Report = Report(report => report.Reason = new Reason { Code = "a", Message = text }) },
            new HostMessage { Console = new ConsoleChunk { Error = new Reason { Code = "a", Message = text } } },
            new HostMessage { Goodbye = new Goodbye { Reason = text } },
            new HostMessage { VolumeDone = new VolumeOrderDone { Problem = new Reason { Code = "a", Message = text } } },
        })
        {
            HostMessageRules.Shorten(message);
            Assert.InRange(message.CalculateSize(), ReasonText.MostBytes, ReasonText.MostBytes + 100);
        }
    }

    [Fact]
    public void Should_stand_any_bytes() =>
        Gen.Byte.Array[0, 200].Sample(
            bytes =>
            {
                try
                {
                    var message = HostMessage.Parser.ParseFrom(bytes);
                    HostMessageRules.Shorten(message);
                    _ = HostMessageRules.Check(message);
                }
                catch (InvalidProtocolBufferException)
                {
                    // gRPC refuses these before we see them.
                }
            },
            iter: 5000);
}
