using System.Net;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Membership;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Scheduler.Tests.Journal;
using Fleet.Tests;
using Xunit;

namespace Fleet.Scheduler.Tests.Membership;

[Collection(PostgresCollection.Name)]
public sealed class CellRegisterTests(SharedPostgres postgres)
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Its machine was suspended, say: by the clock of its own process no time has passed, and its beats would come again.</summary>
    [Fact]
    public async Task Should_end_a_node_that_was_away_so_long_that_another_cell_may_be_formed()
    {
        var database = await MigratedAsync();
        await using var suspended = new CellRegister(database, "127.0.0.1:1001", TimeProvider.System, Serilog.Core.Logger.None);
        Assert.Empty(await suspended.EnterAsync(probe: false, default));
        var lost = new TaskCompletionSource<string>();
        await suspended.StayAsync(Nobody, lost.SetResult, default);
        await ExecuteAsync(database, $"update cell_nodes set seen_at = now() - interval '{CellRegister.AliveFor.TotalSeconds + 1} seconds'");

        Assert.Contains("silent for too long", await lost.Task.WaitAsync(Patience), StringComparison.Ordinal);
        await using var other = new CellRegister(database, "127.0.0.1:1002", TimeProvider.System, Serilog.Core.Logger.None);
        Assert.Empty(await other.EnterAsync(probe: false, default));
    }

    /// <summary>All were killed and are started again: whoever is first waits for none of those that were there before.</summary>
    [Fact]
    public async Task Should_wait_for_no_node_whose_address_another_has_taken()
    {
        var database = await MigratedAsync();
        var address = $"127.0.0.1:{FreePort.Next()}";
        await ExecuteAsync(database, $"insert into cell_nodes (address, incarnation, member, seen_at) values ('{address}', '{Guid.NewGuid()}', true, now())");
        await using var first = new CellRegister(database, "127.0.0.1:1002", TimeProvider.System, Serilog.Core.Logger.None);
        Assert.Equal([address], await first.EnterAsync(probe: false, default));

        await using var second = new CellRegister(database, address, TimeProvider.System, Serilog.Core.Logger.None);
        await second.AnnounceAsync(default);
        Assert.Empty(await first.EnterAsync(probe: false, default));
        Assert.Equal(["127.0.0.1:1002"], await second.EnterAsync(probe: false, default));
    }

    /// <summary>It waited for a dead one for as long as a row counts: its own does not end with that.</summary>
    [Fact]
    public async Task Should_be_seen_to_form_the_cell_however_long_it_waited()
    {
        var database = await MigratedAsync();
        await using var first = new CellRegister(database, "127.0.0.1:1001", TimeProvider.System, Serilog.Core.Logger.None);
        await first.AnnounceAsync(default);
        await ExecuteAsync(database, $"update cell_nodes set seen_at = now() - interval '{CellRegister.AliveFor.TotalSeconds + 1} seconds'");
        Assert.Empty(await first.EnterAsync(probe: false, default));

        await using var second = new CellRegister(database, "127.0.0.1:1002", TimeProvider.System, Serilog.Core.Logger.None);
        Assert.Equal(["127.0.0.1:1001"], await second.EnterAsync(probe: false, default));
        await first.StayAsync(Nobody, _ => { }, default);
        Assert.Equal(["127.0.0.1:1001"], await second.EnterAsync(probe: false, default));
    }

    [Fact]
    public async Task Should_form_no_second_cell_beside_a_node_that_beats_and_whose_address_refuses_connections()
    {
        var database = await MigratedAsync();
        var address = $"127.0.0.1:{FreePort.Next()}";
        await using var member = new CellRegister(database, address, TimeProvider.System, Serilog.Core.Logger.None);
        Assert.Empty(await member.EnterAsync(probe: false, default));
        await member.StayAsync(Nobody, _ => { }, default);

        await using var newcomer = new CellRegister(database, "127.0.0.1:1002", TimeProvider.System, Serilog.Core.Logger.None);
        Assert.Equal([address], await newcomer.EnterAsync(probe: true, default));
    }

    [Fact]
    public async Task Should_take_the_place_of_a_node_that_has_not_beaten_for_a_while_and_whose_address_refuses_connections()
    {
        var database = await MigratedAsync();
        await ExecuteAsync(database, $"insert into cell_nodes (address, incarnation, member, seen_at) values ('127.0.0.1:{FreePort.Next()}', '{Guid.NewGuid()}', true, now() - interval '7 seconds')");

        await using var newcomer = new CellRegister(database, "127.0.0.1:1002", TimeProvider.System, Serilog.Core.Logger.None);
        Assert.Empty(await newcomer.EnterAsync(probe: true, default));
    }

    [Fact]
    public async Task Should_end_a_node_that_alone_does_not_reach_the_database_and_none_when_nobody_does()
    {
        var (database, cutAsync) = await postgres.NewCuttableAsync();
        (await PostgresJournal.OpenAsync(database, default)).Dispose();
        var clock = new JumpingClock();
        await using var member = new CellRegister(database, "127.0.0.1:1001", clock, Serilog.Core.Logger.None);
        Assert.Empty(await member.EnterAsync(probe: false, default));
        var (asked, lost) = (0, new TaskCompletionSource<string>());
        // One that is cut off a moment later, and then one that stays.
        await member.StayAsync(_ => Task.FromResult(++asked is 1 or > 2 ? "other" : null), lost.SetResult, default);
        Assert.True(member.ReachesDatabase);
        await cutAsync();
        clock.Jump(CellRegister.AloneAfter);

        Assert.Contains("reached by other", await lost.Task.WaitAsync(Patience), StringComparison.Ordinal);
        Assert.Equal(4, asked);
        Assert.False(member.ReachesDatabase);
    }

    /// <summary>What it had in charge goes on at the other, which tells it that it has the database.</summary>
    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_leave_the_cell_when_another_node_reaches_the_database()
    {
        var (cuttable, cutAsync) = await postgres.NewCuttableAsync();
        var options = TestCell.Options(Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}")) with { ExtraHocon = "" };
        await using var first = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next(), Database = postgres.SameAs(cuttable) }, CancellationToken.None);
        await using var second = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next(), Database = cuttable }, CancellationToken.None);
        await cutAsync();
        await second.ActorSystem.WhenTerminated.WaitAsync(TimeSpan.FromSeconds(60));
        Assert.False(first.ActorSystem.WhenTerminated.IsCompleted);
        var id = TestCell.NewVmId();
        await Eventually.TrueAsync(async () => (await first.Cell.CreateVmAsync(id, TestCell.Spec(), CancellationToken.None)).Problem is null);
    }

    private static Task<string?> Nobody(CancellationToken cancellation) => Task.FromResult<string?>(null);

    private async Task<PostgresDatabase> MigratedAsync()
    {
        var database = await postgres.NewDatabaseAsync();
        (await PostgresJournal.OpenAsync(database, default)).Dispose();
        return database;
    }

    private static async Task ExecuteAsync(PostgresDatabase database, string sql)
    {
        await using var source = database.ToSource();
        await using var command = source.CreateCommand(sql);
        await command.ExecuteNonQueryAsync();
    }
}
