using Akka.Actor;
using Akka.Persistence;
using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

[Collection(PostgresCollection.Name)]
public sealed class PostgresJournalTests(SharedPostgres postgres)
{
    [Fact]
    public async Task Should_find_every_microVM_and_host_again_after_a_crash()
    {
        var database = await postgres.NewDatabaseAsync();
        await using var cell = await TestCell.StartAsync(options => options with { Database = database, HostSnapshotEvery = 5 });
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        var ids = new List<string>();
        for (var i = 0; i < 5; i++)
            ids.Add(await cell.CreateAsync());
        foreach (var id in ids)
            await cell.WaitAsync(id, VmState.Running);
        var before = await cell.GetAsync(ids[0]);

        await cell.CrashAndRestartAsync(change: options => options with { Database = database });
        Assert.Equal(before, await cell.GetAsync(ids[0]));
        Assert.Equal(5u, (await cell.HostAsync("rack1-7")).ReservedCpus);
    }

    /// <summary>Left out in silence, an operator would believe that certificates are looked at.</summary>
    [Fact]
    public void Should_refuse_settings_in_a_uri_and_say_how_they_are_written()
    {
        var refused = Assert.Throws<ArgumentException>(() => PostgresDatabase.Parse("postgresql://fleet:geheim@db/fleet?sslmode=verify-full"));
        Assert.Contains("SSL Mode=VerifyFull", refused.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("geheim", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_wait_with_later_events_for_a_transaction_that_is_still_under_way()
    {
        var database = await postgres.NewDatabaseAsync();
        var clock = new JumpingClock();
        await using var cell = await TestCell.StartAsync(options => options with { Database = database, Clock = clock });
        await using var source = database.ToSource();
        await cell.WaitAsync(await cell.CreateAsync(), VmState.Unplaced);
        var seen = new List<JournalEvent>();
        using var end = new CancellationTokenSource();
        var reading = ReadAsync(cell.System.Events, seen, end.Token);
        await Eventually.TrueAsync(() => Count(seen) == 2);

        // A writer that took its number, and then stands still.
        await using var slow = await source.OpenConnectionAsync();
        await using var transaction = await slow.BeginTransactionAsync();
        await InsertAsync(slow, transaction, "slow");
        await using (var connection = await source.OpenConnectionAsync())
            await InsertAsync(connection, null, "quick");
        var before = Count(seen);
        // Long enough for many reads; nothing may come.
        await Task.Delay(500);
        Assert.Equal(before, Count(seen));

        // Whoever asks for the node's health is told what is in the way.
        Assert.Null(cell.System.Events.Trouble);
        clock.Jump(TimeSpan.FromSeconds(20));
        await Eventually.TrueAsync(() => cell.System.Events.Trouble?.Contains("pg_stat_activity", StringComparison.Ordinal) == true);

        await transaction.CommitAsync();
        await Eventually.TrueAsync(() => Count(seen) == before + 2);
        await Eventually.TrueAsync(() => cell.System.Events.Trouble is null);
        Assert.Equal(["vm/slow", "vm/quick"], seen.TakeLast(2).Select(stored => stored.PersistenceId));

        // One that is rolled back leaves a gap that nobody waits for.
        await using (var doomed = await slow.BeginTransactionAsync())
        {
            await InsertAsync(slow, doomed, "doomed");
            await doomed.RollbackAsync();
        }
        await InsertAsync(slow, null, "after");
        await Eventually.TrueAsync(() => Count(seen) == before + 3);
        await end.CancelAsync();
        await reading;
    }

    [Fact]
    public async Task Should_be_made_once_by_nodes_that_start_together_and_refuse_what_a_newer_version_made()
    {
        var database = await postgres.NewDatabaseAsync();
        await using var source = database.ToSource();
        await Task.WhenAll(Enumerable.Range(0, 5).Select(async _ =>
        {
            await using var connection = await source.OpenConnectionAsync();
            await PostgresSchema.MigrateAsync(connection, CancellationToken.None);
        }));
        await using (var command = source.CreateCommand("insert into fleet_schema (step) values (1000)"))
            await command.ExecuteNonQueryAsync();
        var refused = await Assert.ThrowsAsync<CellStartException>(() => TestCell.StartAsync(options => options with { Database = database }));
        Assert.Contains("newer version", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_say_when_the_database_is_not_there_and_never_show_the_password()
    {
        var refused = await Assert.ThrowsAsync<CellStartException>(() => TestCell.StartAsync(options => options with
        {
            Database = PostgresDatabase.Parse("postgresql://fleet:geheim@127.0.0.1:1/cell"),
        }));
        Assert.Contains("cell on 127.0.0.1:1", refused.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("geheim", refused.ToString(), StringComparison.Ordinal);
        Assert.DoesNotContain("geheim", Assert.Throws<ArgumentException>(() => PostgresDatabase.Parse("geheim;x")).ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_go_on_a_moment_after_the_database_is_back()
    {
        await using var server = await PostgresServer.StartAsync();
        await using var cell = await TestCell.StartAsync(options => options with
        {
            Database = PostgresDatabase.Parse(server.ConnectionString), RemotingPort = FreePort.Next(),
        });
        await server.KillAsync();
        // More than the journal fails before it lets nobody through any more.
        for (var i = 0; i < 12; i++)
            Assert.False(await RecoversAsync(cell, $"probe/{i}"));
        await server.StartAsync();
        var back = System.Diagnostics.Stopwatch.StartNew();
        for (var i = 0; !await RecoversAsync(cell, $"probe/back-{i}"); i++)
            await Task.Delay(100);
        Assert.InRange(back.Elapsed.TotalSeconds, 0, 10);
    }

    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_keep_what_an_actor_stored_after_it_came_back_from_another_node()
    {
        var options = TestCell.Options(Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}")) with { ExtraHocon = "", Database = await postgres.NewDatabaseAsync() };
        await using var first = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None);
        await using var second = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None);
        var stored = 0;
        foreach (var node in new[] { first, second, first, second })
        {
            var actor = node.ActorSystem.ActorOf(Props.Create(() => new Wanderer()));
            Assert.Equal(stored++, await actor.Ask<int>("how many", Eventually.Bound));
            Assert.Equal(stored, await actor.Ask<int>("one more", Eventually.Bound));
            await actor.GracefulStop(Eventually.Bound);
        }
    }

    /// <summary>Counts its events.</summary>
    private sealed class Wanderer : UntypedPersistentActor
    {
        private int _events;

        public override string PersistenceId => "probe/wanderer";

        protected override void OnCommand(object message)
        {
            if (message is "one more")
                Persist(new HostUncordoned(), _ => Sender.Tell(++_events));
            else
                Sender.Tell(_events);
        }

        protected override void OnRecover(object message)
        {
            if (message is HostUncordoned)
                _events++;
        }
    }

    private static async Task<bool> RecoversAsync(TestCell cell, string id)
    {
        var recovered = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
        cell.System.ActorSystem.ActorOf(Props.Create(() => new Probe(id, recovered)));
        return await recovered.Task.WaitAsync(TimeSpan.FromSeconds(60));
    }

    /// <summary>An actor that only reads its events.</summary>
    private sealed class Probe(string id, TaskCompletionSource<bool> recovered) : UntypedPersistentActor
    {
        public override string PersistenceId => id;

        protected override void OnCommand(object message) => Unhandled(message);

        protected override void OnRecover(object message)
        {
            if (message is RecoveryCompleted)
                recovered.TrySetResult(true);
        }

        protected override void OnRecoveryFailure(Exception reason, object? message = null) => recovered.TrySetResult(false);
    }

    [Fact]
    public async Task Should_give_a_name_to_one_of_many_nodes_that_want_it()
    {
        var database = await postgres.NewDatabaseAsync();
        await using (var source = database.ToSource())
        {
            await using var connection = await source.OpenConnectionAsync();
            await PostgresSchema.MigrateAsync(connection, CancellationToken.None);
        }
        var stores = Enumerable.Range(0, 4).Select(_ => new ClaimStore(new ClaimDatabase.Shared(database), TimeProvider.System, NullLogger.Instance)).ToList();
        try
        {
            var claims = await Task.WhenAll(
                from number in Enumerable.Range(0, 200)
                from store in stores.Index()
                from copy in Enumerable.Range(0, 2)
                let id = $"{number}-{store.Index}-{copy}"
                select store.Item.ClaimAsync(new ClaimRequest($"vm-{id}", $"name-{number}", number % 3 == 0 ? $"key-{id}" : null, [1])));
            Assert.Equal(200, claims.OfType<Claim.Granted>().Count());
            Assert.Equal(1400, claims.OfType<Claim.NameHeld>().Count());
            Assert.All(claims.OfType<Claim.Granted>(), granted => Assert.Equal(granted.VmId, stores[0].Holder($"name-{granted.VmId.Split('-')[1]}")));

            // The server ends every connection: the next claim is answered with an error at most, the one after that goes through.
            await using (var source = NpgsqlDataSource.Create(postgres.AdminConnectionString))
            {
                await using var cut = source.CreateCommand("select pg_terminate_backend(pid) from pg_stat_activity where datname like 'cell_%'");
                await cut.ExecuteNonQueryAsync();
            }
            await Eventually.TrueAsync(async () =>
            {
                try
                {
                    return await stores[0].ClaimAsync(new ClaimRequest("vm-x", "after", "key-x", [1])) is Claim.Granted or Claim.Repeated;
                }
                catch (NpgsqlException)
                {
                    return false;
                }
            });
            Assert.Equal("vm-x", stores[1].Holder("after"));
        }
        finally
        {
            foreach (var store in stores)
                await store.DisposeAsync();
        }
    }

    private static int Count(List<JournalEvent> seen)
    {
        lock (seen)
            return seen.Count;
    }

    private static async Task InsertAsync(NpgsqlConnection connection, NpgsqlTransaction? transaction, string id)
    {
        await using var insert = new NpgsqlCommand(
            "insert into journal (created, deleted, persistence_id, sequence_number, message, manifest, identifier) values (0, false, @id, 1, @message, 'vm-deleted', 1701)",
            connection, transaction);
        insert.Parameters.AddWithValue("@id", "vm/" + id);
        insert.Parameters.AddWithValue("@message", Array.Empty<byte>());
        await insert.ExecuteNonQueryAsync();
    }

    private static async Task ReadAsync(IEventFeed feed, List<JournalEvent> seen, CancellationToken end)
    {
        try
        {
            await foreach (var stored in feed.ReadAsync(0, end))
            {
                lock (seen)
                    seen.Add(stored);
            }
        }
        catch (OperationCanceledException) when (end.IsCancellationRequested)
        {
            // The test has seen enough.
        }
    }
}
