using Fleet.Scheduler.Journal;
using Fleet.Tests;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

/// <summary>One server for all tests that need one; each makes a database of its own in it.</summary>
public sealed class SharedPostgres : IAsyncLifetime
{
    private PostgresServer _server = null!;
    private int _databases;

    public async Task InitializeAsync() => _server = await PostgresServer.StartAsync();

    public Task DisposeAsync() => _server.DisposeAsync().AsTask();

    internal string AdminConnectionString => _server.ConnectionString;

    /// <summary>A new, empty database.</summary>
    internal async Task<PostgresDatabase> NewDatabaseAsync()
    {
        var name = $"cell_{Interlocked.Increment(ref _databases)}";
        await using var source = Npgsql.NpgsqlDataSource.Create(_server.ConnectionString);
        await using var create = source.CreateCommand($"create database {name}");
        await create.ExecuteNonQueryAsync();
        return PostgresDatabase.Parse($"{_server.ConnectionString.Replace("Database=postgres", $"Database={name}", StringComparison.Ordinal)}");
    }
}

[CollectionDefinition(Name)]
public sealed class PostgresCollection : ICollectionFixture<SharedPostgres>
{
    public const string Name = "PostgreSQL";
}
