using Fleet.Cli.Api;
using Fleet.Cli.Volumes;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class VolumeTextTests
{
    [Theory]
    [InlineData("data:/var/lib/data", """{"name":"data","path":"/var/lib/data"}""")]
    [InlineData("data:/data:64", """{"name":"data","path":"/data","size_mib":64}""")]
    [InlineData("data:/data:10G", """{"name":"data","path":"/data","size_mib":10240}""")]
    [InlineData("data::2t", """{"name":"data","size_mib":2097152}""")]
    [InlineData("data", """{"name":"data"}""")]
    public void A_volume_is_a_name_a_path_and_a_size(string word, string body) => Assert.Equal(body, VolumeText.Mount(word)!.ToJsonString());

    [Theory]
    [InlineData("")]
    [InlineData(":/data")]
    [InlineData("data:/data:")]
    [InlineData("data:/data:G")]
    [InlineData("data:/data:-1")]
    [InlineData("data:/data:1K")]
    [InlineData("data:/a:1:2")]
    public void Anything_else_is_refused(string word) => Assert.Equal("invalid_field", Assert.Throws<ApiException>(() => VolumeText.Mount(word)).Code);
}
