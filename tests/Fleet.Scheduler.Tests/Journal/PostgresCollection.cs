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

    /// <summary>A new, empty database by way of a user of its own, and what shuts that user out.</summary>
    internal async Task<(PostgresDatabase Database, Func<Task> CutAsync)> NewCuttableAsync()
    {
        var name = $"cell_{Interlocked.Increment(ref _databases)}";
        await RunAsync($"create database {name}", $"create role {name} superuser login");
        return (Parse($"Username={name};Database={name}"), () => RunAsync($"alter role {name} nologin", $"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{name}'"));
    }

    /// <summary>The same one, by way of the user that nobody shuts out.</summary>
    internal PostgresDatabase SameAs(PostgresDatabase cuttable) => Parse($"Database={new Npgsql.NpgsqlConnectionStringBuilder(cuttable.ConnectionString).Database}");

    private PostgresDatabase Parse(string words) => PostgresDatabase.Parse($"{_server.ConnectionString};{words}");

    private async Task RunAsync(params string[] commands)
    {
        await using var source = Npgsql.NpgsqlDataSource.Create(_server.ConnectionString);
        foreach (var command in commands)
        {
            await using var run = source.CreateCommand(command);
            await run.ExecuteNonQueryAsync();
        }
    }

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
