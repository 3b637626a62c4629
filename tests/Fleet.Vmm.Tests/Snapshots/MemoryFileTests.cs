using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Api;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Memory files and the record of what was written, without a guest; also where memory goes on above the devices' addresses.</summary>
public sealed class MemoryFileTests : IDisposable
{
    private const ulong Page = DirtyPages.PageSize;
    private const ulong LowSize = GuestMemory.HoleStart;

    private readonly ScratchDirectory _files = new();

    [Fact]
    public void Should_put_high_memory_behind_low_memory_and_back()
    {
        using var memory = new GuestMemory(LowSize + (2UL << 20));
        memory.WriteUInt64(0x1000, 1);
        memory.WriteUInt64(LowSize - 8, 2);
        memory.WriteUInt64(GuestMemory.HoleEnd, 3);
        memory.WriteUInt64(GuestMemory.HoleEnd + (2UL << 20) - 8, 4);
        var path = Write(memory, "full", MemoryFile.WriteAll);
        Assert.Equal([0x1000, LowSize - Page, LowSize, LowSize + (2UL << 20) - Page], DataPages(path));

        using var file = new FileContent(path);
        using var again = new GuestMemory(LowSize + (2UL << 20), file);
        Assert.Equal([1UL, 2UL, 3UL, 4UL], new ulong[] { 0x1000, LowSize - 8, GuestMemory.HoleEnd, GuestMemory.HoleEnd + (2UL << 20) - 8 }.Select(at => BitConverter.ToUInt64(again.View(at, 8))));
        again.Track();
        again.WriteUInt64(GuestMemory.HoleEnd + Page, 5);
        Assert.Equal([LowSize + Page], DataPages(Write(again, "diff", MemoryFile.WriteChanges)));
    }

    [Fact]
    public void Should_note_every_page_that_a_write_touches()
    {
        using var memory = new GuestMemory(16 << 20);
        memory.Track();
        _ = memory.Slice(5 * Page - 1, 2);
        _ = memory.Slice(100 * Page, 0);
        _ = memory.View(200 * Page, 4096);
        unsafe
        {
            // SAFETY: only the address is asked for.
            _ = memory.Locate(63 * Page, 2 * Page, writes: true);
            _ = memory.Locate(300 * Page, 1, writes: false);
        }

        Assert.Equal([4 * Page, 5 * Page, 63 * Page, 64 * Page], DataPages(Write(memory, "diff", MemoryFile.WriteChanges)));
        memory.Dirty!.Clear();
        Assert.Empty(DataPages(Write(memory, "nothing", MemoryFile.WriteChanges)));
        Assert.Throws<GuestMemoryException>(() => memory.Slice(16 << 20, 1).Length);
        Assert.Empty(DataPages(Write(memory, "nothing", MemoryFile.WriteChanges)));
    }

    [Fact]
    public void Should_note_writes_of_many_threads()
    {
        using var memory = new GuestMemory(16 << 20);
        memory.Track();
        Parallel.For(0, 4096, page => memory.Slice((ulong)page * Page, 1)[0] = 1);
        Assert.Equal(4096, DataPages(Write(memory, "diff", MemoryFile.WriteChanges)).Count);
    }

    /// <summary>A large piece comes back as zeros, a small one as what the file has; the next diff has what the guest finds.</summary>
    [Theory]
    [InlineData(512, 0)]
    [InlineData(2, 7)]
    public void Should_have_in_the_next_diff_what_the_guest_finds_where_pages_of_a_file_were_given_back(int pages, byte found)
    {
        var path = _files.File("memory");
        File.WriteAllBytes(path, Enumerable.Repeat((byte)7, 4 << 20).ToArray());
        using var file = new FileContent(path);
        using var memory = new GuestMemory(4 << 20, file);
        memory.Track();
        var size = pages * (int)Page;
        memory.Slice(3 * Page, size).Fill(9);
        Assert.True(memory.TryGiveBack(3 * Page, (ulong)size));
        Assert.Equal(7, memory.View((3 * Page) - 1, 1)[0]);
        Assert.False(memory.View(3 * Page, size).ContainsAnyExcept(found));
        Assert.Equal(7, memory.View((3 * Page) + (ulong)size, 1)[0]);
        var diff = Write(memory, "diff", MemoryFile.WriteChanges);
        Assert.Equal(Enumerable.Range(3, pages).Select(page => (ulong)page * Page), DataPages(diff));
        MemoryFile.Merge(diff, path);
        var merged = File.ReadAllBytes(path);
        Assert.False(merged.AsSpan(3 * (int)Page, size).ContainsAnyExcept(found));
    }

    /// <summary>The host allows a process some 65,000 mappings (vm.max_map_count); without any left it can't even allocate.</summary>
    [Fact]
    public void Should_give_back_every_second_page_of_a_file_without_using_up_its_mappings()
    {
        const ulong Size = 512 << 20;
        var path = _files.File("memory");
        using (var sparse = File.Create(path))
        {
            sparse.SetLength((long)Size);
        }

        using var file = new FileContent(path);
        using var memory = new GuestMemory(Size, file);
        for (ulong at = 0; at < Size; at += 2 * Page)
        {
            Assert.True(memory.TryGiveBack(at, Page));
        }

        using var another = new GuestMemory(1 << 20);
    }

    [Fact]
    public void Should_put_nothing_in_a_place_before_it_is_whole()
    {
        var path = _files.File("place", "old");
        using (var lost = new NewFile(path))
        {
            lost.Write(0, "new"u8);
            Assert.Equal("old", File.ReadAllText(path));
        }

        Assert.Equal([path], Directory.GetFiles(_files.Root));
        using (var kept = new NewFile(path))
        {
            kept.Write(0, "new"u8);
            kept.Commit();
        }

        Assert.Equal("new", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFiles(_files.Root));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));
    }

    [Fact]
    public void Should_fill_a_passed_descriptor_and_leave_it_empty_when_that_fails()
    {
        var path = _files.File("passed", "what was there before");
        using var passed = File.OpenHandle(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
        var name = $"/dev/fd/{passed.DangerousGetHandle()}";
        using (var lost = new NewFile(name))
        {
            lost.Write(0, "new"u8);
            lost.Commit();
            lost.Revert();
        }

        Assert.Equal("", File.ReadAllText(path));
        using (var kept = new NewFile(name))
        {
            kept.Write(0, "new"u8);
            kept.Sync();
            kept.Commit();
            NewFile.SyncDirectoryOf(name);
        }

        Assert.Equal("new", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFiles(_files.Root));
    }

    public void Dispose() => _files.Dispose();

    /// <summary>Where the pages of a file that are no holes begin.</summary>
    internal static List<ulong> DataPages(string path)
    {
        using var file = new FileContent(path);
        var pages = new List<ulong>();
        for (ulong at = 0; file.TryFindData(at, out var start, out var end); at = end)
        {
            for (var page = start; page < end; page += Page)
            {
                pages.Add(page);
            }
        }

        return pages;
    }

    private string Write(GuestMemory memory, string name, Action<GuestMemory, NewFile> write)
    {
        using var file = new NewFile(_files.File(name));
        write(memory, file);
        file.Commit();
        return file.Path;
    }
}
