using Fleet.Scheduler.Journal;
using Microsoft.Data.Sqlite;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

public sealed class GatedSqliteConnectionTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-gate-").FullName;
    private readonly SemaphoreSlim _gate = new(1, 1);

    private GatedSqliteConnection Connection(string name = "gate.db") =>
        new(new SqliteConnectionStringBuilder { DataSource = Path.Combine(_folder, name), Pooling = false }.ToString(), _gate);

    public void Dispose()
    {
        Directory.Delete(_folder, recursive: true);
        _gate.Dispose();
    }

    [Fact]
    public async Task Should_let_one_in_at_a_time()
    {
        await using var first = Connection();
        await first.OpenAsync();
        await using var second = Connection();
        var waiting = second.OpenAsync();
        Assert.False(waiting.IsCompleted);
        await first.CloseAsync();
        await waiting;
        Assert.Equal(0, _gate.CurrentCount);
    }

    [Fact]
    public async Task Should_leave_the_gate_once_however_often_it_is_closed()
    {
        var connection = Connection();
        await connection.OpenAsync();
        await connection.CloseAsync();
        await connection.CloseAsync();
        await connection.DisposeAsync();
        connection.Open();
        connection.Dispose();
        connection.Dispose();
        Assert.Equal(1, _gate.CurrentCount);
    }

    [Fact]
    public async Task Should_leave_the_gate_when_the_file_can_not_be_opened()
    {
        await using var connection = Connection("no/such/folder.db");
        await Assert.ThrowsAsync<SqliteException>(() => connection.OpenAsync());
        Assert.Throws<SqliteException>(connection.Open);
        Assert.Equal(1, _gate.CurrentCount);
    }

    [Fact]
    public async Task Should_leave_the_gate_alone_when_the_wait_for_it_is_given_up()
    {
        await using var first = Connection();
        await first.OpenAsync();
        using var enough = new CancellationTokenSource();
        await using var second = Connection();
        var waiting = second.OpenAsync(enough.Token);
        await enough.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
        await second.CloseAsync();
        Assert.Equal(0, _gate.CurrentCount);
    }

    [Fact]
    public async Task Should_commit_to_the_disk_and_not_only_to_the_kernel()
    {
        await using var connection = Connection();
        await connection.OpenAsync();
        await using var command = connection.CreateCommand();
        command.CommandText = "pragma synchronous;";
        const long Full = 2;
        Assert.Equal(Full, await command.ExecuteScalarAsync());
    }
}
