using Fleet.Host.Images;
using Xunit;

namespace Fleet.Host.Tests.Images;

public sealed class PackageSourceTests
{
    private const string Hash = "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee";

    [Fact]
    public void Reads_a_package_from_the_index()
    {
        var package = PackageSource.Parse($"""
            Package: linux-image-cloud-amd64
            Version: 6.1.192-2
            Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), a:any | b, c
            Description: a kernel
             Version: not this one
            SHA256: {Hash.ToUpperInvariant()}

            Package: linux-image-cloud-amd64
            Version: 6.1.176-1
            """);
        Assert.NotNull(package);
        Assert.Equal(("linux-image-cloud-amd64", "6.1.192-2", Hash), (package.Name, package.Version, package.Sha256));
        Assert.Equal(["linux-image-6.1.0-56-cloud-amd64", "a", "c"], package.Depends);
    }

    [Theory]
    [InlineData("")]
    [InlineData("N: Unable to locate package x")]
    [InlineData("Package: x\nVersion: 1")]
    [InlineData("Package: ../x\nVersion: 1\nSHA256: " + Hash)]
    [InlineData("Package: x\nVersion: 1/../../y\nSHA256: " + Hash)]
    [InlineData("Package: -o\nVersion: 1\nSHA256: " + Hash)]
    [InlineData("Package: x\nVersion: 1\nSHA256: abc")]
    public void Refuses_what_is_no_package(string text) => Assert.Null(PackageSource.Parse(text));
}
