using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Microsoft.Data.Sqlite;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

public sealed class SqliteSchemaTests
{
    [Fact]
    public void Should_take_up_a_file_again_and_refuse_what_a_newer_version_made()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-schema-");
        try
        {
            SqliteJournal.Open(folder.FullName).Dispose();
            SqliteJournal.Open(folder.FullName).Dispose();
            using (var connection = new SqliteConnection($"Data Source={folder.FullName}/journal.db;Pooling=false"))
            {
                connection.Open();
                using var command = new SqliteCommand("pragma user_version = 1000", connection);
                command.ExecuteNonQuery();
            }
            Assert.Contains("newer version", Assert.Throws<CellStartException>(() => SqliteJournal.Open(folder.FullName)).Message, StringComparison.Ordinal);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }
}
