using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Tests.Api;
using Fleet.Scheduler.Tests.Sessions;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Microsoft.Extensions.Logging;
using Xunit;

namespace Fleet.Scheduler.Tests.Access;

/// <summary>Joining and a node's own credentials, without the network before them and the actors behind them.</summary>
public sealed class EnrolmentServiceTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-enrolment-");
    private readonly ManualClock _clock = new();

    public void Dispose() => _folder.Delete(recursive: true);

    /// <summary>While the database is away every host that wants to join tries again each second.</summary>
    [Fact]
    public async Task What_the_cell_can_not_do_now_is_no_attempt_of_an_attacker()
    {
        using var authority = CertificateAuthority.OpenOrCreate(_folder.FullName, _clock);
        var book = new TokenBook();
        var tokens = new Tokens(book, (question, _) => Task.FromResult<TokenReply?>(new TokenReply { Token = ((CreateToken)question).Token }), authority.Pin, _clock);
        var token = (await tokens.CreateAsync(new(TokenRole.Host), "", default)).Token.Text;
        var cell = new FakeCell(_clock) { Refuses = new CellProblem("unavailable", "The host 'box-1' gave no answer.") };
        using var logs = new FaultLog();
        var service = new EnrolmentService(authority, tokens, cell, new RefusalLimit(EnrolmentService.MostRefusals, _clock), new Logger<EnrolmentService>(logs));
        using var key = LinkClient.NewKey();
        var request = new EnrolHostRequest { Token = token, HostId = "box-1", Key = LinkClient.Request(key) };

        for (var i = 0; i < 2 * EnrolmentService.MostRefusals; i++)
            Assert.Equal("unavailable", (await service.EnrolHost(request, Call())).Refusal.Code);
        Assert.Contains(logs.Lines, line => line.Contains("could not be let in now", StringComparison.Ordinal));
        cell.Refuses = new CellProblem("host_exists", "It is taken.");
        for (var i = 0; i < EnrolmentService.MostRefusals; i++)
            Assert.Equal("host_exists", (await service.EnrolHost(request, Call())).Refusal.Code);
        Assert.Equal("too_many_attempts", (await service.EnrolHost(request, Call())).Refusal.Code);
    }

    [Fact]
    public async Task A_node_asks_again_when_its_own_token_is_not_taken_in_time()
    {
        using var authority = CertificateAuthority.OpenOrCreate(Path.Combine(_folder.FullName, "ca"), _clock);
        var (book, asked, late) = (new TokenBook(), 0, 2);
        var tokens = new Tokens(book, (question, _) => Task.FromResult(asked++ < late ? null : new TokenReply { Token = ((CreateToken)question).Token }), authority.Pin, _clock);
        await LocalAdmin.EnsureAsync(Path.Combine(_folder.FullName, "one"), authority, tokens, default);
        Assert.Equal((3, TokenRole.Admin), (asked, Assert.Single(book.All).Role));
        (asked, late) = (0, 100);
        await Assert.ThrowsAsync<Fleet.Scheduler.Node.SchedulerStartException>(() => LocalAdmin.EnsureAsync(Path.Combine(_folder.FullName, "two"), authority, tokens, default));
        Assert.Equal(3, asked);
    }

    /// <summary>One call from one address.</summary>
    private static FakeCallContext Call() => new("ipv4:192.0.2.1:5000", CancellationToken.None);
}
