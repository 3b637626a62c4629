using System.Diagnostics;
using System.Globalization;
using Fleet.Scheduler.Journal;
using Npgsql;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

[Collection(PostgresCollection.Name)]
public sealed class PostgresDatabaseTests(SharedPostgres postgres)
{
    /// <summary>
    /// A node keeps its place in the cell by heartbeats, which need a thread of the pool. Idle connections and what is cancelled must hold none while the server says nothing.
    /// </summary>
    [Fact]
    [Trait("Kind", "Slow")]
    public async Task A_server_that_stands_takes_no_threads()
    {
        var database = await postgres.NewDatabaseAsync();
        await using var source = database.ToSource();
        var connections = await Task.WhenAll(Enumerable.Range(0, 20).Select(async _ => await source.OpenConnectionAsync()));
        string[] backends = [.. connections.Select(connection => connection.ProcessID.ToString(CultureInfo.InvariantCulture))];
        await Task.WhenAll(connections.Skip(10).Select(async connection => await connection.CloseAsync()));
        Signal("-STOP", backends);
        try
        {
            using var over = new CancellationTokenSource();
            // Half are idle, the others are in the middle of a command that is cancelled.
            var cancelled = connections.Take(10).Select(connection => AskAsync(connection, over.Token)).ToList();
            await over.CancelAsync();
            var slowest = TimeSpan.Zero;
            for (var clock = Stopwatch.StartNew(); clock.Elapsed < TimeSpan.FromSeconds(8); await Task.Delay(50))
            {
                var asked = Stopwatch.GetTimestamp();
                await Task.Run(static () => { });
                slowest = TimeSpan.FromTicks(Math.Max(slowest.Ticks, Stopwatch.GetElapsedTime(asked).Ticks));
            }
            Assert.True(slowest < TimeSpan.FromSeconds(2), $"a thread was free after {slowest.TotalSeconds:0.0} s only");
            Assert.All(await Task.WhenAll(cancelled), Assert.True);
        }
        finally
        {
            Signal("-CONT", backends);
            foreach (var connection in connections)
                await connection.DisposeAsync();
        }
    }

    private static async Task<bool> AskAsync(NpgsqlConnection connection, CancellationToken cancellation)
    {
        await using var command = new NpgsqlCommand("select 1", connection);
        try
        {
            _ = await command.ExecuteScalarAsync(cancellation);
            return false;
        }
        catch (OperationCanceledException)
        {
            return true;
        }
    }

    private static void Signal(string signal, string[] processes)
    {
        using var kill = Process.Start("kill", [signal, .. processes]);
        kill.WaitForExit();
        Assert.Equal(0, kill.ExitCode);
    }
}
