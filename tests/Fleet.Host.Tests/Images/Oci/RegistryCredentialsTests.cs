using System.Text;
using System.Text.Json.Nodes;
using Fleet.Host.Drivers;
using Fleet.Host.Images.Oci;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>Who the host is to its registries.</summary>
public sealed class RegistryCredentialsTests : IDisposable
{
    private static readonly TestImage Image = TestImage.Of([new TarMaker().File("a", "1").ToArray()], new JsonObject { ["Cmd"] = new JsonArray("/a") });

    private readonly TestFolder _folder = new();

    private string File => _folder.At("registries.json");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void They_are_kept_for_the_agents_user_alone_and_in_dockers_form()
    {
        var credentials = new RegistryCredentials(_folder.Path);
        Assert.Empty(credentials.Registries);
        Assert.Null(credentials.Find("registry.example"));
        Assert.Null(credentials.Set("registry.example:5000", "me", "wörd:1"));
        Assert.Null(credentials.Set("docker.io", "other", "x"));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, System.IO.File.GetUnixFileMode(File));
        Assert.Equal(["docker.io", "registry.example:5000"], new RegistryCredentials(_folder.Path).Registries);
        Assert.Equal("me:wörd:1", Encoding.UTF8.GetString(Convert.FromBase64String(credentials.Find("registry.example:5000")!)));
        Assert.Null(credentials.Find("registry.example"));
        Assert.True(credentials.Remove("registry.example:5000"));
        Assert.False(credentials.Remove("registry.example:5000"));

        System.IO.File.WriteAllText(File, """{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6aHVi"}}, "credsStore": "none"}""");
        Assert.Equal("bWU6aHVi", credentials.Find("docker.io"));
    }

    [Theory]
    [InlineData("", "me", "x")]
    [InlineData("registry.example/path", "me", "x")]
    [InlineData("https://registry.example", "me", "x")]
    [InlineData("registry.example", "", "x")]
    [InlineData("registry.example", "a:b", "x")]
    [InlineData("registry.example", "me", "")]
    [InlineData("registry.example", "me", "a\nb")]
    public void What_can_be_none_is_refused(string registry, string user, string password)
    {
        Assert.NotNull(new RegistryCredentials(_folder.Path).Set(registry, user, password));
        Assert.False(System.IO.File.Exists(File));
    }

    [Theory]
    [InlineData("no JSON")]
    [InlineData("[]")]
    [InlineData("""{"auths": 1}""")]
    [InlineData("""{"auths": {"registry.example": 1}}""")]
    [InlineData("""{"auths": {"registry.example": {"auth": 1}}}""")]
    [InlineData("""{"auths": {"registry.example": {"auth": "c2VjcmV0"}}}""")]
    [InlineData("""{"auths": {"registry.example": {"auth": "secret\r\nX: y"}}}""")]
    public void A_file_that_is_none_fails_the_pull_and_is_not_repeated(string text)
    {
        new RegistryCredentials(_folder.Path).Set("other.example", "me", "x");
        System.IO.File.WriteAllText(File, text);
        var failed = Assert.Throws<LaunchFailedException>(() => new RegistryCredentials(_folder.Path).Find("registry.example"));
        Assert.Equal("registry_unavailable", failed.Code);
        Assert.DoesNotContain("secret", failed.ToString(), StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public void A_file_that_others_may_read_is_not_used()
    {
        var credentials = new RegistryCredentials(_folder.Path);
        credentials.Set("registry.example", "me", "x");
        System.IO.File.SetUnixFileMode(File, (UnixFileMode)0x1A4); // 0644
        Assert.Contains("chmod 600", Assert.Throws<LaunchFailedException>(() => credentials.Find("registry.example")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task They_go_where_the_registry_says_that_tokens_are_and_the_token_to_the_registry()
    {
        using var registry = new FakeRegistry(Image);
        registry.Fault = context =>
        {
            if (context.Request.Url!.AbsolutePath == "/token")
                return FakeRegistry.Answer(context, 200, Encoding.ASCII.GetBytes("""{"token": "one"}"""));
            return context.Request.Headers["Authorization"] != "Bearer one"
                && FakeRegistry.Answer(context, 401, null, ("WWW-Authenticate", $"Bearer realm=\"http://{registry.Address}/token\",service=\"s\""));
        };
        new RegistryCredentials(_folder.Path).Set(registry.Address, "me", "word");

        await new ImageStore(_folder.Path, new ImageStoreOptions { KeptFree = 0 }).GetAsync(registry.Reference, "", null, again: false, default);

        var identity = "Basic " + Convert.ToBase64String("me:word"u8);
        Assert.All(registry.Requests, request => Assert.Equal(request.Path == "/token", request.Authorization == identity));
        Assert.NotEqual(0, registry.Asked("/token"));
    }
}
