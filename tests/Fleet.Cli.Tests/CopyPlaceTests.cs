using Fleet.Cli.Vms;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class CopyPlaceTests
{
    [Theory]
    [InlineData("web:/etc/hosts", "web", "/etc/hosts")]
    [InlineData("web:", "web", "/")]
    [InlineData("acme/web:/etc/hosts", "acme/web", "/etc/hosts")]
    [InlineData("acme/web:a:b", "acme/web", "a:b")]
    [InlineData("file", null, "file")]
    [InlineData(":file", null, ":file")]
    [InlineData("./a:b", null, "./a:b")]
    [InlineData("./acme/web:b", null, "./acme/web:b")]
    [InlineData("/acme:b", null, "/acme:b")]
    [InlineData("some/folder/a:b", null, "some/folder/a:b")]
    [InlineData("Some/folder:b", null, "Some/folder:b")]
    public void Should_tell_a_place_in_a_microVM_from_one_here(string word, string? vm, string path) => Assert.Equal((vm, path), CopyCommand.Split(word));
}
