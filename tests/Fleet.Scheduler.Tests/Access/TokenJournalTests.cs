using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Scheduler.Tests.Journal;
using Fleet.Shared.Access;
using Microsoft.Data.Sqlite;
using Xunit;

namespace Fleet.Scheduler.Tests.Access;

[Collection(PostgresCollection.Name)]
public sealed class TokenJournalTests(SharedPostgres postgres)
{
    private static readonly string Pin = new('p', 43);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Should_not_grow_with_tokens_that_come_and_go(bool shared)
    {
        const int Kept = 10;
        var database = shared ? await postgres.NewDatabaseAsync() : null;
        CellOptions Change(CellOptions options) => options with { BookEventsKept = Kept, Database = database };
        await using var cell = await TestCell.StartAsync(Change);
        var (lives, revoked) = (AccessToken.New(Pin), AccessToken.New(Pin));
        var book = new TokenBook();
        await PutAsync(lives);
        await PutAsync(revoked);
        await cell.System.AskTokens(new RevokeToken { Id = revoked.Id, By = "" }, default);
        for (var i = 0; i < 3 * Kept; i++)
            await PutAsync(AccessToken.New(Pin), TimeSpan.FromDays(-30));
        await Eventually.TrueAsync(async () => await RowsAsync() <= Kept + 2);

        await cell.CrashAndRestartAsync(change: Change);
        // The actor has it all, and so has a node that begins to follow.
        Assert.Equal("token_exists", (await cell.System.AskTokens(new CreateToken { Token = Record(new AccessToken(revoked.Id, AccessToken.New(Pin).Secret, Pin), null) }, default))!.Problem.Code);
        await foreach (var stored in cell.System.Events.ReadOneAsync(PersistenceIds.Tokens, 0, int.MaxValue, default))
            book.Apply(stored.Event);
        Assert.Equal("", book.Check(lives.Text, DateTimeOffset.UtcNow).Code);
        Assert.Equal("token_revoked", book.Check(revoked.Text, DateTimeOffset.UtcNow).Code);

        async Task PutAsync(AccessToken token, TimeSpan? life = null) =>
            Assert.Null((await cell.System.AskTokens(new CreateToken { Token = Record(token, life) }, default))!.Problem);

        static TokenRecord Record(AccessToken token, TimeSpan? life) => new()
        {
            Id = token.Id,
            Role = TokenRole.Admin,
            SecretHash = Google.Protobuf.ByteString.CopyFrom(token.Hash()),
            CreatedAt = Google.Protobuf.WellKnownTypes.Timestamp.FromDateTimeOffset(DateTimeOffset.UtcNow),
            ExpiresAt = life is null ? null : Google.Protobuf.WellKnownTypes.Timestamp.FromDateTimeOffset(DateTimeOffset.UtcNow + life.Value),
        };

        async Task<long> RowsAsync()
        {
            await using System.Data.Common.DbConnection connection = database is null
                ? new SqliteConnection($"Data Source={Path.Combine(cell.Folder, "journal.db")};Mode=ReadOnly;Pooling=False")
                : new Npgsql.NpgsqlConnection(database.ConnectionString + ";Pooling=False");
            await connection.OpenAsync();
            await using var command = connection.CreateCommand();
            command.CommandText = $"select count(*) from journal where persistence_id = '{PersistenceIds.Tokens}'";
            return Convert.ToInt64(await command.ExecuteScalarAsync(), System.Globalization.CultureInfo.InvariantCulture);
        }
    }
}
