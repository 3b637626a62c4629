using System.Diagnostics;
using System.Globalization;
using Fleet.Chaos.Faults;
using Xunit;

namespace Fleet.Chaos.Tests.Faults;

public sealed class WallClockTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-chaos-test-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public async Task Should_move_the_clock_of_a_process_while_it_runs_and_no_other_clock()
    {
        var clock = new WallClock(_folder.FullName, "one", "perl");
        // Tells both clocks whenever it is asked; what it starts has the machine's time.
        const string Tell = "$| = 1; while (<STDIN>) { print time, ' ', `date +%s`; }";
        using var process = Process.Start(new ProcessStartInfo("env", [.. clock.Environment, "sh", "-c", "exec perl -e \"$0\"", Tell])
        {
            RedirectStandardInput = true, RedirectStandardOutput = true,
        })!;
        async Task<(double Off, double Child)> AskAsync()
        {
            await process.StandardInput.WriteLineAsync();
            await process.StandardInput.FlushAsync();
            var words = (await process.StandardOutput.ReadLineAsync().WaitAsync(TimeSpan.FromSeconds(20)))!.Split(' ').Select(word => double.Parse(word, CultureInfo.InvariantCulture)).ToArray();
            var now = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1000.0;
            return (words[0] - now, words[1] - now);
        }

        Assert.InRange((await AskAsync()).Off, -5, 5);
        clock.Set(TimeSpan.FromHours(-1));
        var moved = await AskAsync();
        Assert.InRange(moved.Off, -3605, -3595);
        Assert.InRange(moved.Child, -5, 5);
        clock.Set(TimeSpan.FromHours(2));
        Assert.InRange((await AskAsync()).Off, 7195, 7205);
        clock.Set(TimeSpan.Zero);
        Assert.InRange((await AskAsync()).Off, -5, 5);
        process.StandardInput.Close();
        await process.WaitForExitAsync();
    }
}
