using System.Data.Common;
using Fleet.Scheduler.Journal;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

[Collection(PostgresCollection.Name)]
public sealed class JournalQueueTests(SharedPostgres postgres) : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-queue-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private async Task<CellJournal> OpenAsync(string kind) => kind == "sqlite"
        ? SqliteJournal.Open(_folder)
        : await PostgresJournal.OpenAsync(await postgres.NewDatabaseAsync(), CancellationToken.None);

    private static JournalRow Row(string id, long number) => new(id, number, [1, 2, (byte)number], 1701, "vm-deleted");

    private static async Task<List<StoredRow>> ReadAllAsync(CellJournal journal)
    {
        await using var connection = await journal.ConnectAsync(CancellationToken.None);
        return await JournalTable.ReadAsync(connection, 0, 10_000, CancellationToken.None);
    }

    [Theory]
    [InlineData("sqlite")]
    [InlineData("postgres")]
    public async Task Should_store_what_many_want_at_once_each_in_its_order(string kind)
    {
        using var journal = await OpenAsync(kind);
        var queue = new JournalQueue(journal);
        var answers = await Task.WhenAll(Enumerable.Range(0, 1000).Select(async at =>
        {
            // Asked before the write is stored: the answer counts it.
            var write = queue.WriteAsync([Row($"vm/{at}", 1), Row($"vm/{at}", 2)]);
            var highest = queue.ReadHighestAsync($"vm/{at}");
            await write;
            return await highest;
        }));
        Assert.All(answers, highest => Assert.Equal(2, highest));
        Assert.Equal(0, await queue.ReadHighestAsync("vm/nobody"));

        var stored = await ReadAllAsync(journal);
        Assert.Equal(2000, stored.Count);
        foreach (var of in stored.GroupBy(row => row.Row.PersistenceId))
            Assert.Equal([1, 2], of.Select(row => row.Row.SequenceNr));
        var first = stored.Single(row => row.Row is { PersistenceId: "vm/7", SequenceNr: 2 }).Row;
        Assert.Equal([1, 2, 2], first.Message);
        Assert.Equal((1701, "vm-deleted"), (first.Serializer, first.Manifest));
    }

    /// <summary>What recovers and reads may hold every connection that it gets.</summary>
    [Fact]
    public async Task Should_store_while_readers_hold_the_whole_pool()
    {
        using var journal = await OpenAsync("postgres");
        var queue = new JournalQueue(journal);
        var readers = await Task.WhenAll(Enumerable.Range(0, 20).Select(_ => journal.ConnectAsync(CancellationToken.None)));
        await Assert.ThrowsAnyAsync<DbException>(() => journal.ConnectAsync(CancellationToken.None));
        await queue.WriteAsync([Row("vm/one", 1)]);
        Assert.Equal(1, await queue.ReadHighestAsync("vm/one"));
        foreach (var reader in readers)
            await reader.DisposeAsync();
    }

    [Theory]
    [InlineData("sqlite")]
    [InlineData("postgres")]
    public async Task Should_refuse_a_number_that_is_taken_and_nobody_elses(string kind)
    {
        using var journal = await OpenAsync(kind);
        var queue = new JournalQueue(journal);
        await queue.WriteAsync([Row("vm/twice", 1)]);
        Task[] writes;
        // What is asked for while the connection is in use is one batch.
        await using (await journal.ConnectAsync(CancellationToken.None))
        {
            writes = [.. Enumerable.Range(0, 20).Select(at => queue.WriteAsync(at == 10 ? [Row("vm/twice", 2), Row("vm/twice", 1)] : [Row($"vm/{at}", 1)]))];
        }
        for (var at = 0; at < writes.Length; at++)
        {
            if (at == 10)
                Assert.True(journal.IsTaken(await Assert.ThrowsAnyAsync<DbException>(() => writes[10])));
            else
                await writes[at];
        }
        Assert.Equal(20, (await ReadAllAsync(journal)).Count);
        Assert.Equal(1, await queue.ReadHighestAsync("vm/twice"));
    }

    [Fact]
    public async Task Should_answer_who_asked_beside_the_one_write_that_is_refused()
    {
        using var journal = await OpenAsync("sqlite");
        var queue = new JournalQueue(journal);
        await queue.WriteAsync([Row("vm/twice", 1)]);
        Task write;
        Task<long> question;
        await using (await journal.ConnectAsync(CancellationToken.None))
        {
            write = queue.WriteAsync([Row("vm/twice", 1)]);
            question = queue.ReadHighestAsync("vm/twice");
        }
        Assert.True(journal.IsTaken(await Assert.ThrowsAnyAsync<DbException>(() => write)));
        Assert.Equal(1, await question);
    }

    [Theory]
    [InlineData("sqlite")]
    [InlineData("postgres")]
    public async Task Should_give_no_number_of_what_was_deleted_out_again(string kind)
    {
        using var journal = await OpenAsync(kind);
        var queue = new JournalQueue(journal);
        await queue.WriteAsync([.. Enumerable.Range(1, 5).Select(number => Row("vm/one", number))]);
        foreach (var last in (long[])[3, 5, 9])
        {
            await using var connection = await journal.ConnectAsync(CancellationToken.None);
            await JournalTable.DeleteAsync(connection, "vm/one", last, CancellationToken.None);
            Assert.Equal(last == 3 ? [4, 5] : Array.Empty<long>(), (await JournalTable.ReadOneAsync(connection, "vm/one", 0, long.MaxValue, 100, CancellationToken.None)).Select(row => row.Row.SequenceNr));
        }
        Assert.Equal(5, await queue.ReadHighestAsync("vm/one"));
        Assert.Single(await ReadAllAsync(journal));
    }

    /// <summary>Its actors are gone by then, and others may have begun where they were.</summary>
    [Fact]
    public async Task Should_store_nothing_that_waits_when_it_is_closed()
    {
        using var journal = await OpenAsync("sqlite");
        var queue = new JournalQueue(journal);
        Task late;
        await using (await journal.ConnectAsync(CancellationToken.None))
        {
            late = queue.WriteAsync([Row("vm/late", 1)]);
            queue.Close();
        }
        await Assert.ThrowsAsync<JournalBusyException>(() => late);
        Assert.Throws<JournalBusyException>(() => { _ = queue.WriteAsync([Row("vm/later", 1)]); });
        Assert.Empty(await ReadAllAsync(journal));
    }
}
