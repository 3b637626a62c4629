using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Memory files of what changed, with and without a record of it, over the file before.</summary>
public sealed class DiffSnapshotTests
{
    private const int MemoryMib = 16;

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void Should_make_the_whole_memory_out_of_a_base_and_what_changed(bool track)
    {
        using var run = Counter(track);
        using var saved = SavedMachine.From(run, "aaa", 3, saved =>
        {
            run.Machine.Resume();
            SavedMachine.Step(run, "aa", 2);
            var state = SavedMachine.StateOf(run.Machine);
            SavedMachine.WriteMemory(run.Machine, saved.File("diff"), onlyChanges: true);
            SavedMachine.WriteMemory(run.Machine, saved.File("full"), onlyChanges: false);
            MemoryFile.Merge(saved.File("diff"), saved.MemoryPath);
            Assert.Equal(File.ReadAllBytes(saved.File("full")), File.ReadAllBytes(saved.MemoryPath));

            using var second = new MachineRun([], source: saved.Source with { State = state });
            second.Type("aq");
            second.RunToEnd();
            Assert.Equal("6", second.Console());
        });
    }

    [SkippableFact]
    public void Should_write_no_more_than_what_changed()
    {
        using var run = Counter(track: true);
        using var saved = SavedMachine.From(run, "aaa", 3, saved =>
        {
            run.Machine.Resume();
            SavedMachine.Step(run, "a", 1);
            SavedMachine.WriteMemory(run.Machine, saved.File("diff"), onlyChanges: true);
            Assert.Equal([0x200000UL], DataPages(saved.File("diff")));
            SavedMachine.WriteMemory(run.Machine, saved.File("nothing"), onlyChanges: true);
            Assert.Empty(DataPages(saved.File("nothing")));
            Assert.Equal(MemoryMib << 20, new FileInfo(saved.File("nothing")).Length);
        });
    }

    [SkippableFact]
    public void Should_know_what_a_device_wrote()
    {
        using var run = new MachineRun(SteppingGuests.Entropy, entropy: true, change: settings => settings with { TrackDirtyPages = true });
        using var saved = SavedMachine.From(run, "a", 1, saved =>
        {
            run.Machine.Resume();
            SavedMachine.Step(run, "a", 1);
            SavedMachine.WriteMemory(run.Machine, saved.File("diff"), onlyChanges: true);

            // The guest's index of the available ring; the device's used ring and data. The descriptors are only read.
            Assert.Equal([0x301000UL, 0x302000UL, 0x303000UL], DataPages(saved.File("diff")));
        });
    }

    [SkippableFact]
    public void Should_forget_nothing_when_a_snapshot_did_not_come_about()
    {
        using var run = Counter(track: true);
        using var saved = SavedMachine.From(run, "aaa", 3, saved =>
        {
            run.Machine.Resume();
            SavedMachine.Step(run, "a", 1);
            using (var lost = new Fleet.Vmm.Linux.NewFile(saved.File("lost")))
            {
                run.Machine.SaveMemory(lost, onlyChanges: true);
            }

            Assert.False(File.Exists(saved.File("lost")));
            Assert.False(File.Exists(saved.File("lost.new")));
            SavedMachine.WriteMemory(run.Machine, saved.File("diff"), onlyChanges: true);
            Assert.Equal([0x200000UL], DataPages(saved.File("diff")));
        });
    }

    [SkippableFact]
    public void Should_write_what_a_restored_guest_changed()
    {
        using var first = Counter(track: false);
        using var saved = SavedMachine.From(first, "aaa", 3);
        using var second = new MachineRun([], source: saved.Source, change: settings => settings with { TrackDirtyPages = true });
        using var again = SavedMachine.From(second, "a", 1, again =>
        {
            second.Machine.Resume();
            SavedMachine.Step(second, "a", 1);
            SavedMachine.WriteMemory(second.Machine, again.File("diff"), onlyChanges: true);
            Assert.Equal([0x200000UL], DataPages(again.File("diff")));
        });
        Assert.Equal("45", again.Console);
    }

    [SkippableFact]
    public void Should_write_a_full_memory_with_holes_where_nothing_is()
    {
        using var run = Counter(track: false);
        using var saved = SavedMachine.From(run, "a", 1);
        var file = new FileInfo(saved.MemoryPath);
        Assert.Equal(MemoryMib << 20, file.Length);
        var pages = DataPages(saved.MemoryPath);
        Assert.InRange(pages.Count, 5, 40);
        Assert.Contains(0x200000UL, pages);
    }

    [Fact]
    public void Should_not_merge_files_of_two_sizes()
    {
        using var files = new Fleet.Vmm.Tests.Api.ScratchDirectory();
        var (small, large) = (files.File("small", "a"), files.File("large", "abc"));
        Assert.Equal(
            $"{small} has 1 bytes, {large} has 3: they are not of the same microVM",
            Assert.Throws<SnapshotException>(() => MemoryFile.Merge(small, large)).Message);
    }

    private static MachineRun Counter(bool track) =>
        new(SteppingGuests.Counter, memoryMib: MemoryMib, change: settings => settings with { TrackDirtyPages = track });

    // Addresses of the pages that are no holes.
    private static List<ulong> DataPages(string path)
    {
        using var file = new Fleet.Vmm.Linux.FileContent(path);
        var pages = new List<ulong>();
        for (ulong at = 0; file.TryFindData(at, out var start, out var end); at = end)
        {
            for (var page = start; page < end; page += 4096)
            {
                pages.Add(page);
            }
        }

        return pages;
    }
}
