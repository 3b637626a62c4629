using Fleet.Host.Images;

namespace Fleet.Host.Tests.Images;

/// <summary>What is left of what a failed program said.</summary>
public sealed class ExternalCommandTests
{
    private const string Unsandboxed = "W: Download is performed unsandboxed as root as file '/var/lib/fleet/cache/debs/x.deb' couldn't be accessed by user '_apt'.";

    [Fact]
    public void Should_give_the_error_and_not_the_warning_before_or_behind_it() => Assert.Equal(
        "E: You don't have enough free space in /var/lib/fleet/.",
        ExternalCommand.LastWords($"E: You don't have enough free space in /var/lib/fleet/.\n{Unsandboxed}\nN: See apt-secure(8).\n"));

    [Fact]
    public void Should_give_the_warning_where_there_is_nothing_else() => Assert.Equal(Unsandboxed, ExternalCommand.LastWords(Unsandboxed + "\n"));

    [Fact]
    public void Should_keep_the_cause_at_the_end_of_long_words()
    {
        var words = ExternalCommand.LastWords($"E: Failed to fetch http://mirror.example/{new string('p', 400)}.deb  Error writing to file - write (28: No space left on device)\n");
        Assert.True(words.Length < 250, words);
        Assert.EndsWith("write (28: No space left on device)", words, StringComparison.Ordinal);
    }
}
