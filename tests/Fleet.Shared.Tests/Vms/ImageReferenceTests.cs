using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Shared.Tests.Vms;

public sealed class ImageReferenceTests
{
    private const string Digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    [Theory]
    [InlineData("nginx", "docker.io/library/nginx:latest")]
    [InlineData("nginx:1.27", "docker.io/library/nginx:1.27")]
    [InlineData("a/b", "docker.io/a/b:latest")]
    [InlineData("localhost/a", "localhost/a:latest")]
    [InlineData("127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x")]
    [InlineData("ghcr.io/a/b@" + Digest, "ghcr.io/a/b@" + Digest)]
    [InlineData("ghcr.io/a/b:t@" + Digest, "ghcr.io/a/b:t@" + Digest)]
    [InlineData("oci:/images/a", "oci:/images/a")]
    [InlineData("oci:/images/a:tag", "oci:/images/a:tag")]
    [InlineData("docker-archive:/images/a.tar", "docker-archive:/images/a.tar")]
    [InlineData("docker-archive:/images/a.tar:localhost:5000/a/b:tag", "docker-archive:/images/a.tar:localhost:5000/a/b:tag")]
    public void One_way_to_write_each(string text, string written)
    {
        Assert.True(ImageReference.TryParse(text, out var reference, out _));
        Assert.Equal(written, reference.ToString());
        Assert.True(ImageReference.TryParse(written, out var again, out _));
        Assert.Equal(reference, again);
    }

    [Theory]
    [InlineData("nginx", false)]
    [InlineData("10.0.0.1:5000/a", false)]
    [InlineData("localhost.example/a", false)]
    [InlineData("localhost:5000/a", true)]
    [InlineData("LOCALHOST:5000/a", true)]
    [InlineData("a.localhost/a", true)]
    [InlineData("127.8.8.8/a", true)]
    [InlineData("127.1:80/a", true)]
    [InlineData("2130706433:80/a", true)]
    [InlineData("0.0.0.0:80/a", true)]
    [InlineData("oci:/a", true)]
    [InlineData("docker-archive:/a.tar", true)]
    public void What_comes_from_the_host_itself_is_known(string text, bool own)
    {
        Assert.True(ImageReference.TryParse(text, out var reference, out _));
        Assert.Equal(own, reference.IsOfHost);
    }

    [Theory]
    [InlineData("")]
    [InlineData(":")]
    [InlineData("@")]
    [InlineData("A")]
    [InlineData("a:")]
    [InlineData("a b")]
    [InlineData("a\n")]
    [InlineData("a@sha256:00")]
    [InlineData("a@sha512:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")]
    [InlineData("../a")]
    [InlineData("a/../b")]
    [InlineData("a//b")]
    [InlineData("host.x:0/a")]
    [InlineData("host.x:99999/a")]
    [InlineData("host.x:80x/a")]
    [InlineData("user@host.x/a")]
    [InlineData("a..b/x")]
    [InlineData("a.b./x")]
    [InlineData("a.-b/x")]
    [InlineData("a-.b/x")]
    [InlineData("a123456789012345678901234567890123456789012345678901234567890123.b/x")]
    [InlineData("http://host.x/a")]
    [InlineData("oci:images")]
    [InlineData("oci:/a/../b")]
    [InlineData("oci:/a:")]
    [InlineData("docker-archive:")]
    public void What_is_no_name_is_refused_with_a_sentence(string text)
    {
        Assert.False(ImageReference.TryParse(text, out _, out var problem));
        Assert.EndsWith(".", problem, StringComparison.Ordinal);
    }
}
