using Fleet.Shared.Files;
using Xunit;

namespace Fleet.Shared.Tests.Files;

public sealed class OwnFileTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("fleet-own-file-").FullName;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Fact]
    public void Should_be_its_users_alone_and_leave_nothing_beside_it()
    {
        var file = Path.Combine(_root, "new", "ca", "authority.pem");
        OwnFile.Write(file, "one");
        OwnFile.Write(file, "two");
        Assert.Equal("two", File.ReadAllText(file));
        Assert.Equal(OwnFile.Private, File.GetUnixFileMode(file));
        Assert.Equal(OwnFile.Private | UnixFileMode.UserExecute, File.GetUnixFileMode(Path.GetDirectoryName(file)!));
        Assert.Single(Directory.GetFileSystemEntries(Path.GetDirectoryName(file)!));

        OwnFile.Write(file + "2", "open", OwnFile.Private | UnixFileMode.OtherRead);
        Assert.Equal(OwnFile.Private | UnixFileMode.OtherRead, File.GetUnixFileMode(file + "2"));
    }

    [Fact]
    public void Should_not_replace_what_must_stay()
    {
        var file = Path.Combine(_root, "authority.pem");
        OwnFile.Write(file, "one", overwrite: false);
        Assert.Throws<IOException>(() => OwnFile.Write(file, "two", overwrite: false));
        Assert.Equal("one", File.ReadAllText(file));
    }

    [Fact]
    public void Should_tell_when_a_folder_is_not_on_the_disk() =>
        Assert.Throws<IOException>(() => FolderSync.Sync(Path.Combine(_root, "none")));
}
