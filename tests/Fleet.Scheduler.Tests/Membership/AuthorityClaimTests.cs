using System.Net;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Membership;
using Fleet.Scheduler.Node;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Scheduler.Tests.Journal;
using Fleet.Tests;
using Xunit;

namespace Fleet.Scheduler.Tests.Membership;

[Collection(PostgresCollection.Name)]
public sealed class AuthorityClaimTests(SharedPostgres postgres) : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-claim-");

    public void Dispose() => _folder.Delete(recursive: true);

    private string Folder(string name) => Path.Combine(_folder.FullName, name);

    private static Task<CertificateAuthority> OpenAsync(PostgresDatabase database, string folder) => AuthorityClaim.OpenAsync(database, folder, TimeProvider.System, default);

    [Fact]
    public async Task Should_let_nobody_begin_another_authority_on_a_cells_database()
    {
        var database = await postgres.NewDatabaseAsync();
        using var first = await OpenAsync(database, Folder("first"));
        using var again = await OpenAsync(database, Folder("first"));
        Assert.Equal(first.Pin, again.Pin);

        var stranger = await Assert.ThrowsAsync<SchedulerStartException>(() => OpenAsync(database, Folder("stranger")));
        Assert.Contains("--join", stranger.Message, StringComparison.Ordinal);
        Assert.Contains(first.Pin, stranger.Message, StringComparison.Ordinal);
        // It can still join: nothing of another cell is in its way.
        Assert.False(CertificateAuthority.Exists(Folder("stranger")));
        CertificateAuthority.Import(Folder("stranger"), first.ExportPem()).Dispose();
        using var joined = await OpenAsync(database, Folder("stranger"));
        Assert.Equal(first.Pin, joined.Pin);

        using var rival = CertificateAuthority.OpenOrCreate(Folder("rival"));
        var refused = await Assert.ThrowsAsync<SchedulerStartException>(() => OpenAsync(database, Folder("rival")));
        Assert.Contains("is not that of the cell", refused.Message, StringComparison.Ordinal);
        Assert.True(CertificateAuthority.Exists(Folder("rival")));
    }

    [Fact]
    public async Task Should_be_won_by_one_of_nodes_that_start_together()
    {
        var database = await postgres.NewDatabaseAsync();
        var tries = await Task.WhenAll(Enumerable.Range(0, 4).Select(async node =>
        {
            try
            {
                (await OpenAsync(database, Folder($"node{node}"))).Dispose();
                return true;
            }
            catch (SchedulerStartException)
            {
                return false;
            }
        }));
        Assert.Single(tries, won => won);
        Assert.Single(Enumerable.Range(0, 4), node => CertificateAuthority.Exists(Folder($"node{node}")));
    }

    [Fact]
    public async Task Should_keep_a_whole_node_from_starting()
    {
        var database = await postgres.NewDatabaseAsync();
        (await OpenAsync(database, Folder("first"))).Dispose();
        await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(
            new SchedulerOptions
            {
                DataDirectory = Folder("rival"),
                ApiEndpoint = new(IPAddress.Loopback, 0),
                LinkEndpoint = new(IPAddress.Loopback, 0),
                Cell = cell => cell with { Database = database, RemotingPort = FreePort.Next() },
            },
            default));
    }
}
