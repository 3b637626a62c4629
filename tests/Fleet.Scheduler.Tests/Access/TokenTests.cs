using CsCheck;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Tests.Api;
using Fleet.Shared.Access;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Xunit;

namespace Fleet.Scheduler.Tests.Access;

public sealed class TokenTests
{
    private static readonly string Pin = new('p', 43);

    private readonly ManualClock _clock = new();
    private readonly TokenBook _book = new();

    private Timestamp At => Timestamp.FromDateTimeOffset(_clock.GetUtcNow());

    private TokenRecord Record(AccessToken token, TimeSpan? life = null) => new()
    {
        Id = token.Id,
        Role = TokenRole.Admin,
        SecretHash = ByteString.CopyFrom(token.Hash()),
        CreatedAt = At,
        ExpiresAt = life is null ? null : Timestamp.FromDateTimeOffset(_clock.GetUtcNow() + life.Value),
    };

    private string Code(string shown) => _book.Check(shown, _clock.GetUtcNow()).Code;

    [Fact]
    public void A_token_is_read_as_it_was_written_and_never_tells_its_secret()
    {
        var token = AccessToken.New(Pin);
        Assert.Equal(token, AccessToken.Parse(token.Text));
        Assert.DoesNotContain(token.Secret, token.ToString(), StringComparison.Ordinal);
        Assert.DoesNotContain(token.Secret, $"{token}", StringComparison.Ordinal);
        Assert.NotEqual(token.Secret, AccessToken.New(Pin).Secret);
    }

    [Fact]
    public void Whatever_is_no_token_is_none()
    {
        var text = AccessToken.New(Pin).Text;
        Gen.Select(Gen.Int[0, text.Length - 1], Gen.Char).Sample((at, letter) =>
        {
            var bent = string.Concat(text.AsSpan(0, at), $"{letter}", text.AsSpan(at + 1));
            // What still reads as one reads as what it says.
            Assert.True(AccessToken.Parse(bent) is not { } parsed || parsed.Text == bent);
        });
        Gen.String.Sample(other => Assert.True(AccessToken.Parse(other) is not { } parsed || parsed.Text == other));
        foreach (var wrong in new[] { "", "fleet.", text + "x", text[..^1], text.ToUpperInvariant(), text.Replace('.', ' ') })
            Assert.Null(AccessToken.Parse(wrong));
    }

    [Fact]
    public void Only_the_right_secret_counts_and_only_in_its_time()
    {
        var token = AccessToken.New(Pin);
        Assert.Equal("token_unknown", Code(token.Text));
        _book.Apply(new TokenCreated { At = At, Token = Record(token, TimeSpan.FromHours(1)) });
        Assert.Equal(TokenRole.Admin, _book.Check(token.Text, _clock.GetUtcNow()).Token!.Role);
        Assert.Equal("token_unknown", Code(new AccessToken(token.Id, AccessToken.New(Pin).Secret, Pin).Text));
        Assert.Equal("token_unknown", Code("nonsense"));
        _clock.Advance(TimeSpan.FromHours(1));
        Assert.Equal("token_expired", Code(token.Text));
    }

    [Fact]
    public void What_is_revoked_stays_revoked_and_ends_what_goes_on()
    {
        var token = AccessToken.New(Pin);
        _book.Apply(new TokenCreated { At = At, Token = Record(token) });
        var goesOn = _book.Check(token.Text, _clock.GetUtcNow()).Revoked;
        Assert.False(goesOn.IsCancellationRequested);
        _book.Apply(new TokenRevoked { At = At, Id = token.Id });
        Assert.True(goesOn.IsCancellationRequested);
        Assert.Equal("token_revoked", Code(token.Text));
        // Its creation is told once more, late.
        _book.Apply(new TokenCreated { At = At, Token = Record(token) });
        Assert.Equal("token_revoked", Code(token.Text));
    }

    [Fact]
    public void Ended_ones_are_listed_for_a_week_and_then_forgotten()
    {
        var (ended, lives) = (AccessToken.New(Pin), AccessToken.New(Pin));
        _book.Apply(new TokenCreated { At = At, Token = Record(ended, TimeSpan.FromMinutes(1)) });
        _book.Apply(new TokenCreated { At = At, Token = Record(lives) });
        Assert.Equal(2, _book.Live(_clock.GetUtcNow()));
        _clock.Advance(TimeSpan.FromDays(6));
        _book.Apply(new TokenCreated { At = At, Token = Record(AccessToken.New(Pin)) });
        Assert.Equal((3, 2), (_book.All.Count, _book.Live(_clock.GetUtcNow())));
        _clock.Advance(TimeSpan.FromDays(2));
        _book.Apply(new TokenCreated { At = At, Token = Record(AccessToken.New(Pin)) });
        Assert.Equal((3, 3), (_book.All.Count, _book.Live(_clock.GetUtcNow())));
        Assert.Equal("token_unknown", Code(ended.Text));
    }

    [Fact]
    public void What_is_kept_of_earlier_events_says_the_same_as_they_and_takes_nothing_back()
    {
        var (lives, revoked, newer) = (AccessToken.New(Pin), AccessToken.New(Pin), AccessToken.New(Pin));
        var before = new TokenBook();
        before.Apply(new TokenCreated { At = At, Token = Record(lives) });
        before.Apply(new TokenCreated { At = At, Token = Record(revoked) });
        before.Apply(new TokenRevoked { At = At, Id = revoked.Id });
        _book.Apply(new TokenCreated { At = At, Token = Record(newer) });
        _book.Apply(new TokensKept { At = At, Tokens = { before.Kept(_clock.GetUtcNow()) } });
        Assert.Equal(("", "token_revoked", ""), (Code(lives.Text), Code(revoked.Text), Code(newer.Text)));
        _book.Apply(new TokenRevoked { At = At, Id = lives.Id });
        _book.Apply(new TokensKept { At = At, Tokens = { before.Kept(_clock.GetUtcNow()) } });
        Assert.Equal("token_revoked", Code(lives.Text));
        _clock.Advance(TokenBook.EndedKept + TimeSpan.FromMinutes(1));
        Assert.Equal([lives.Id], before.Kept(_clock.GetUtcNow()).Select(token => token.Id));
    }

    [Theory]
    [InlineData(TokenRole.Tenant, null, null, 60, "tenant")]
    [InlineData(TokenRole.Tenant, "Not A Name", null, 60, "tenant")]
    [InlineData(TokenRole.Admin, "acme", null, 60, "tenant")]
    [InlineData(TokenRole.Scheduler, null, "box", 60, "host")]
    [InlineData(TokenRole.Host, null, "Box!", 60, "host")]
    [InlineData(TokenRole.Host, null, null, 1, "ttl_seconds")]
    [InlineData(TokenRole.Host, null, null, int.MaxValue, "ttl_seconds")]
    public void Rules_name_what_is_wrong(TokenRole role, string? tenant, string? host, int seconds, string field) =>
        Assert.Equal(field, TokenRules.FirstProblem(new(role) { Tenant = tenant, Host = host, Life = TimeSpan.FromSeconds(seconds) })?.Field);

    [Fact]
    public void Refusals_are_counted_by_address_and_minute()
    {
        var limit = new RefusalLimit(2, _clock);
        Assert.True(limit.Note("a"));
        Assert.False(limit.IsReached("a"));
        Assert.True(limit.Note("a"));
        Assert.True(limit.IsReached("a"));
        Assert.False(limit.Note("a"));
        Assert.False(limit.IsReached("b"));
        _clock.Advance(TimeSpan.FromMinutes(1));
        Assert.False(limit.IsReached("a"));
        for (var i = 0; i < 10_000; i++)
            limit.Note($"address {i}");
        Assert.True(limit.Note("a"));
    }

    [Fact]
    public async Task A_node_follows_what_others_store_and_goes_on_after_trouble()
    {
        var stored = new List<JournalEvent>();
        var broken = false;
        await using var follower = await TokenFollower.StartAsync(_book, Read, _clock, new FaultLog(), default);
        var token = AccessToken.New(Pin);
        stored.Add(new(7, "access/tokens", 1, new TokenCreated { At = At, Token = Record(token) }));
        await PassAsync();
        await ApiUnderTest.UntilAsync(() => Code(token.Text).Length == 0);
        broken = true;
        await PassAsync();
        Assert.Equal("", Code(token.Text));
        broken = false;
        stored.Add(new(9, "access/tokens", 2, new TokenRevoked { At = At, Id = token.Id }));
        await PassAsync();
        await ApiUnderTest.UntilAsync(() => Code(token.Text) == "token_revoked");

        async Task PassAsync()
        {
            await ApiUnderTest.UntilAsync(() => _clock.Timers > 0);
            // Half a second: that is what a revocation may take, and another half to be read.
            _clock.Advance(TimeSpan.FromMilliseconds(500));
        }

        async IAsyncEnumerable<JournalEvent> Read(long after, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellation)
        {
            await Task.Yield();
            if (broken)
                throw new IOException("The disk is away.");
            foreach (var one in stored.Where(one => one.SequenceNr > after).ToList())
                yield return one;
        }
    }
}
