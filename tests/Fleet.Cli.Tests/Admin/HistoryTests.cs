using Fleet.Cli.Admin;
using Fleet.Shared.Admin;
using Xunit;

namespace Fleet.Cli.Tests.Admin;

public sealed class HistoryTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-history-");

    private string File => Path.Combine(_folder.FullName, "fleet", "admin_history");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public void Should_be_there_again_for_its_owner_alone()
    {
        var first = new History(File);
        first.Add("one");
        first.Add("two");
        first.Add("two");
        first.Add("");
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, System.IO.File.GetUnixFileMode(File));
        var again = new History(File);
        Assert.Equal((2, "two", "one"), (again.Count, again.Back(1), again.Back(2)));
    }

    [Fact]
    public void Should_be_bounded_in_memory_and_in_its_file()
    {
        var history = new History(File);
        for (var i = 0; i < History.Kept + 20; i++)
            history.Add($"line {i}");
        Assert.Equal((History.Kept, "line 20"), (history.Count, history.Back(History.Kept)));
        Directory.CreateDirectory(Path.GetDirectoryName(File)!);
        System.IO.File.AppendAllText(File, new string('x', CommandWords.MaxLine + 1) + "\n");
        var again = new History(File);
        Assert.Equal((History.Kept, $"line {History.Kept + 19}"), (again.Count, again.Back(1)));
        Assert.Equal(History.Kept, System.IO.File.ReadLines(File).Count());
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, System.IO.File.GetUnixFileMode(File));
        Assert.Single(_folder.GetFiles("*", SearchOption.AllDirectories));
    }

    [Fact]
    public void Should_work_where_no_file_can_be_kept()
    {
        System.IO.File.WriteAllText(Path.Combine(_folder.FullName, "fleet"), "a file where the folder would be");
        var history = new History(File);
        history.Add("one");
        Assert.Equal("one", history.Back(1));
    }
}
