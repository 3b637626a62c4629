using System.Diagnostics;
using System.Text;
using Fleet.Host.Lab;
using Xunit;

namespace Fleet.Host.Tests.Lab;

/// <summary>Option checks, command scripts, records: what needs no machine.</summary>
public sealed class LabOptionsTests
{
    private static LabOptions Good => new() { StateDirectory = "/tmp/state", CacheDirectory = "/tmp/cache", Qemu = "sh" };

    public static TheoryData<LabOptions, string> Bad() => new()
    {
        { Good with { StateDirectory = "state" }, "state directory" },
        { Good with { CacheDirectory = "cache" }, "cache directory" },
        { Good with { StateDirectory = "/tmp/a,b" }, "comma" },
        { Good with { MemoryMib = 511 }, "memory" },
        { Good with { MemoryMib = int.MaxValue }, "memory" },
        { Good with { Cpus = 0 }, "CPUs" },
        { Good with { Cpus = 17 }, "CPUs" },
        { Good with { BootTimeout = TimeSpan.Zero }, "time-out" },
        { Good with { BootAttempts = 0 }, "attempts" },
        { Good with { Agent = new LabAgent("/nowhere", ["cli"], ["true"], "/tmp") }, "./fleet build" },
        { Good with { Agent = new LabAgent("/", [], [], "/tmp") }, "command" },
    };

    [Theory]
    [MemberData(nameof(Bad))]
    public void Should_refuse_bad_options_and_say_which(LabOptions options, string words)
    {
        var error = Assert.Throws<LabException>(options.Validate);
        Assert.Equal("invalid_lab_option", error.Code);
        Assert.Contains(words, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_say_how_to_get_a_missing_emulator()
    {
        var error = Assert.Throws<LabException>((Good with { Qemu = "no-such-emulator" }).Validate);
        Assert.Equal("qemu_missing", error.Code);
        Assert.Contains("apt-get install", error.Message, StringComparison.Ordinal);
        Good.Validate();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(33)]
    public async Task Should_refuse_an_absurd_number_of_nodes(int nodes) =>
        Assert.Equal("invalid_lab_option", (await Assert.ThrowsAsync<LabException>(() => FakeEmulator.Over(Good).UpAsync(nodes, CancellationToken.None))).Code);

    [Theory]
    [InlineData("plain")]
    [InlineData("it's \"quoted\" $HOME `id` \\ *")]
    [InlineData("two\nlines")]
    [InlineData("")]
    public void Should_hand_words_through_a_shell_unchanged(string word)
    {
        var command = new LabCommand("printf", "%s|", word, "end") { Environment = new Dictionary<string, string> { ["V"] = word } };
        Assert.Equal($"{word}|end|", Shell(command.ToScript()));
        Assert.Equal(word, Shell((LabCommand.Shell("printf %s \"$V\"") with { Environment = command.Environment }).ToScript()));
    }

    [Fact]
    public void Should_refuse_words_that_no_process_can_get()
    {
        Assert.Throws<LabException>(() => new LabCommand("a\0b").ToScript());
        Assert.Throws<LabException>(() => new LabCommand());
        Assert.Throws<LabException>(() => (new LabCommand("a") with { Environment = new Dictionary<string, string> { ["A=B;"] = "" } }).ToScript());
    }

    [Theory]
    [InlineData("https://127.0.0.1:7071", "https://10.0.2.2:7071")]
    [InlineData("https://localhost:7071/", "https://10.0.2.2:7071")]
    [InlineData("https://192.0.2.7:9", "https://192.0.2.7:9")]
    public void Should_reach_the_outer_loopback_through_the_gateway(string link, string seen)
    {
        var agent = LabAgent.Fleet("/build", "/usr/bin/dotnet", new Uri(link), "/cache");
        var script = agent.ToScript("lab-3");
        Assert.Contains($"'--join' '{seen}'", script, StringComparison.Ordinal);
        Assert.Contains("'--id' 'lab-3'", script, StringComparison.Ordinal);
        Assert.Contains("exec '/usr/bin/dotnet' '/run/fleet-lab/build/cli/fleet.dll' 'host'", script, StringComparison.Ordinal);
        Assert.Equal("", Shell(script, "-n"));
    }

    [Fact]
    public void Should_ship_an_init_that_is_a_valid_script() =>
        Assert.Equal("", Shell(Encoding.UTF8.GetString(NodeImage.InitScript()), "-n"));

    [Fact]
    public void Should_keep_a_record_and_notice_a_damaged_one()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-lab-").FullName;
        try
        {
            Assert.Null(NodeRecord.Read(folder));
            var record = new NodeRecord("lab-1", 512, 1, DateTimeOffset.UnixEpoch);
            record.Write(folder);
            Assert.Equal(record, NodeRecord.Read(folder));
            foreach (var damaged in (string[])["", "null", "[]", "{}", "{\"name\":null,\"memory_mib\":1,\"cpus\":1,\"started_at\":\"2026-01-01T00:00:00Z\"}"])
            {
                File.WriteAllText(Path.Combine(folder, "node.json"), damaged);
                Assert.Null(NodeRecord.Read(folder));
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static string Shell(string script, params string[] options)
    {
        var start = new ProcessStartInfo("sh", [.. options, "-c", script]) { RedirectStandardOutput = true, RedirectStandardError = true };
        using var shell = Process.Start(start)!;
        var errors = shell.StandardError.ReadToEndAsync();
        var output = shell.StandardOutput.ReadToEnd();
        Assert.True(shell.WaitForExit(TimeSpan.FromSeconds(20)));
        return output + errors.Result;
    }
}
