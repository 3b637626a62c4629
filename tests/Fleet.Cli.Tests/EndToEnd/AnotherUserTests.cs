using System.Diagnostics;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>The data directory belongs to the user that runs Fleet: what others are told who come to it.</summary>
public sealed class AnotherUserTests : IDisposable
{
    private const string Nobody = "65534";

    private readonly string _data = Directory.CreateTempSubdirectory("fleet-other-user-").FullName;

    public AnotherUserTests()
    {
        File.SetUnixFileMode(_data, (UnixFileMode)0x1ed); // 0755
        Directory.CreateDirectory(Path.Combine(_data, "log"));
        File.WriteAllText(Path.Combine(_data, "log", "up.out"), "fleet: what an earlier run said\n");
        var scheduler = Directory.CreateDirectory(Path.Combine(_data, "scheduler")).FullName;
        File.WriteAllText(Path.Combine(scheduler, "journal.db"), "");
        File.SetUnixFileMode(scheduler, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
    }

    public void Dispose() => Directory.Delete(_data, recursive: true);

    [SkippableTheory]
    [InlineData("--detach")]
    [InlineData("--no-host")]
    public async Task Should_not_start_and_say_that_it_may_not_write_there(string how)
    {
        Skip.IfNot(await MayReadCheckoutAsync(), "needs root, and a checkout that everybody may read");
        var (exit, output, error) = await RunAsync("up", how, "--api", $"127.0.0.1:{FreePort.Next()}", "--link", $"127.0.0.1:{FreePort.Next()}");
        Assert.Equal(1, exit);
        Assert.Matches($"^fleet: {_data} can't be used as data directory: .* Run as the user that it belongs to, or choose another --data\\. \\(start_failed\\)\n$", output + error);
    }

    [SkippableFact]
    public async Task Should_see_in_the_doctor_s_lines_what_it_may_not_use()
    {
        Skip.IfNot(await MayReadCheckoutAsync(), "needs root, and a checkout that everybody may read");
        var lines = (await RunAsync("doctor")).Output.Split('\n');
        Assert.Contains(lines, line => line.StartsWith("BROKEN  data ", StringComparison.Ordinal) && line.Contains("can't write", StringComparison.Ordinal));
        Assert.Contains(lines, line => line.StartsWith("BROKEN  journal ", StringComparison.Ordinal) && line.Contains("run as the user that runs Fleet", StringComparison.Ordinal));
    }

    [SkippableFact]
    public async Task Should_run_what_the_checkout_s_owner_has_built()
    {
        Skip.IfNot(await MayReadCheckoutAsync(), "needs root, and a checkout that everybody may read");
        var (_, output, error) = await AsNobodyAsync(Path.Combine(Checkout.Root, "fleet"), ["doctor", "--data", _data]);
        Assert.Contains("BROKEN  data ", output, StringComparison.Ordinal);
        Assert.DoesNotContain("Permission denied", error, StringComparison.Ordinal);
    }

    private Task<(int Exit, string Output, string Error)> RunAsync(params string[] words) => AsNobodyAsync("dotnet", [RunningFleet.Program, .. words, "--data", _data]);

    // Only root becomes somebody else, and who that is may not see where the checkout is.
    private static async Task<bool> MayReadCheckoutAsync() =>
        Environment.IsPrivilegedProcess && (await AsNobodyAsync("test", ["-r", RunningFleet.Program])).Exit == 0;

    private static Task<(int Exit, string Output, string Error)> AsNobodyAsync(string program, string[] words) => RunningFleet.RunAsync(
        new ProcessStartInfo("setpriv", [$"--reuid={Nobody}", $"--regid={Nobody}", "--clear-groups", "--", program, .. words]), "", () => "");
}
