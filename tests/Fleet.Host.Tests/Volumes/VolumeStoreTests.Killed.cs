using System.Diagnostics;
using Fleet.Host.Drivers;
using Fleet.Host.Volumes;
using Fleet.Shared.Contracts;
using Serilog.Core;

namespace Fleet.Host.Tests.Volumes;

/// <summary>
/// What a kill leaves between any two changes of files, as a copy of all of them at that moment, and what a fault of the disk leaves there: the next agent finds
/// the old state or the new one, nothing else, and the same order carried out again ends as if nothing had been.
/// </summary>
public sealed partial class VolumeStoreTests
{
    private const ulong SmallMib = 16;

    // Fewer would say that steps are not told any more.
    [Theory]
    [InlineData("make", 9)]
    [InlineData("give", 2)]
    [InlineData("copy", 9)]
    [InlineData("remove", 3)]
    public async Task An_agent_that_is_killed_between_two_steps_leaves_the_old_state_or_the_new_one(string what, int steps)
    {
        await PrepareAsync(what);
        var left = new List<string>();
        void Keep()
        {
            var copy = Path.Combine(_folder, $"left-{left.Count}");
            using var process = Process.Start("cp", ["-a", "--sparse=always", Root, copy]);
            process.WaitForExit();
            Assert.Equal(0, process.ExitCode);
            left.Add(copy);
        }
        Assert.Null(await ChangeAsync(what, Small(Root, Keep)));
        Keep();
        Assert.True(left.Count > steps, $"{left.Count - 1} steps");
        for (var i = 0; i < left.Count; i++)
            await CheckAsync(what, left[i], isOver: i == left.Count - 1);
    }

    [Theory]
    [InlineData("make")]
    [InlineData("give")]
    [InlineData("copy")]
    [InlineData("remove")]
    public async Task A_disk_that_fails_between_two_steps_leaves_the_old_state_or_the_new_one(string what)
    {
        for (var failing = 0; ; failing++)
        {
            if (Directory.Exists(Root)) Directory.Delete(Root, recursive: true);
            await PrepareAsync(what);
            var step = 0;
            var code = await ChangeAsync(what, Small(Root, () =>
            {
                if (step++ == failing) throw new IOException("the disk failed");
            }));
            // What was made has gone at once, without another agent.
            Assert.Empty(Directory.Exists(Path.Combine(Root, ".making")) ? Directory.GetDirectories(Path.Combine(Root, ".making")) : []);
            if (step <= failing)
            {
                Assert.Null(code);
                Assert.True(failing > 1, "no step failed");
                return;
            }
            // A removal is over when the volume is out of its place, and its bytes go.
            var isOver = what == "remove" && !File.Exists(Small(Root).DiskOf("", "data"));
            Assert.Equal(isOver ? null : "volume_unavailable", code);
            Assert.True(!isOver || Directory.GetDirectories(Path.Combine(Root, ".removed")).Length == 0);
            await CheckAsync(what, Root, isOver);
        }
    }

    /// <summary>Else the control plane would have it back, and its microVM would find nothing.</summary>
    [Fact]
    public async Task A_removal_is_over_when_the_volume_is_out_of_its_place_whatever_becomes_of_its_bytes()
    {
        await PrepareAsync("remove");
        var removed = Path.Combine(Root, ".removed");
        Assert.Null(await ChangeAsync("remove", Small(Root, () =>
        {
            if (Directory.Exists(removed))
                Array.ForEach(Directory.GetDirectories(removed), folder => Directory.Delete(folder, recursive: true));
        })));
        await CheckAsync("remove", Root, isOver: true);
    }

    [Fact]
    public async Task A_copy_that_was_killed_in_the_middle_of_its_bytes_begins_anew()
    {
        await PrepareAsync("copy");
        var half = Path.Combine(Root, ".making", "half");
        Directory.CreateDirectory(half);
        File.WriteAllBytes(Path.Combine(half, "disk"), (await File.ReadAllBytesAsync(Small(Root).DiskOf("", "data")))[..(8 << 20)]);
        File.WriteAllText(Path.Combine(half, "id.new"), "00");
        await CheckAsync("copy", Root, isOver: false);
    }

    /// <summary>Also a record that was being written is no record: who had it before has it.</summary>
    [Fact]
    public async Task A_half_written_record_counts_for_nothing()
    {
        await PrepareAsync("give");
        var folder = Path.GetDirectoryName(Small(Root).DiskOf("", "data"))!;
        File.WriteAllText(Path.Combine(folder, "given.new"), "99999 vm");
        await CheckAsync("give", Root, isOver: false);
    }

    private VolumeStore Small(string root, Action? atStep = null) =>
        new(root, FolderOfVm, TimeProvider.System, Logger.None, _ => _free) { AtStep = atStep ?? (static () => { }) };

    private async Task PrepareAsync(string what)
    {
        Directory.CreateDirectory(Root);
        // Another one, that nothing happens to.
        (await Small(Root).GiveAsync(Launch(First, 1, generation: 1, sizeMib: SmallMib, name: "other", id: New), default)).Dispose();
        if (what == "make")
            return;
        using var given = await Small(Root).GiveAsync(Launch(First, 1, generation: 1, sizeMib: SmallMib, id: Old), default);
        Write(given.Disks[0], 14 * Mib, "kept");
    }

    /// <summary>Null: it went well.</summary>
    private static async Task<string?> ChangeAsync(string what, VolumeStore store)
    {
        if (what is "copy" or "remove")
            return (await store.CarryOutAsync(what == "copy" ? Order("data", "copy", id: New, sourceId: Old) : Order("data", id: Old), default))?.Code;
        try
        {
            (await store.GiveAsync(Next(what), default)).Dispose();
            return null;
        }
        catch (LaunchFailedException failed)
        {
            return failed.Code;
        }
    }

    private static LaunchVm Next(string what) => what == "make"
        ? Launch(First, 1, generation: 1, sizeMib: SmallMib, id: Old)
        : Launch(Second, 1, generation: 2, sizeMib: SmallMib, id: Old, made: true);

    /// <summary>The next agent in that folder.</summary>
    private async Task CheckAsync(string what, string root, bool isOver)
    {
        var store = Small(root);
        store.RemoveLeftovers();
        Assert.Equal(["_"], Directory.GetFileSystemEntries(root).Select(Path.GetFileName));
        string[] before = what == "make" ? ["other"] : ["data", "other"];
        string[] after = what switch { "remove" => ["other"], "copy" => ["copy", "data", "other"], _ => ["data", "other"] };
        var there = store.Told().Select(volume => volume.Name).Order().ToArray();
        Assert.True((!isOver && there.SequenceEqual(before)) || there.SequenceEqual(after), string.Join(' ', there));
        // Each is whole, and has no other files than it should, but for a record that was being written.
        Assert.Equal(there, Directory.GetDirectories(Path.Combine(root, "_")).Select(Path.GetFileName).Order());
        foreach (var name in there)
        {
            var disk = store.DiskOf("", name);
            Assert.Equal((long)SmallMib * Mib, new FileInfo(disk).Length);
            Assert.Equal([0x53, 0xEF], Bytes(disk, 1080, 2));
            Assert.Empty(Directory.GetFiles(Path.GetDirectoryName(disk)!).Select(file => Path.GetFileName(file).Replace(".new", "", StringComparison.Ordinal)).Except(["disk", "id", "given"]));
            Assert.Equal(name is "data" ? Old : New, File.ReadAllText(Path.Combine(Path.GetDirectoryName(disk)!, "id")).Trim());
            if (what != "make" && name is not "other")
                Assert.Equal("kept"u8.ToArray(), Bytes(disk, 14 * Mib, 4));
        }

        if (what == "give")
            Assert.True(File.ReadAllText(Path.Combine(root, "_", "data", "given")) is $"1 {First} 1\n" or $"2 {Second} 1\n");

        Assert.Null(await ChangeAsync(what, store));
        Assert.Equal(after, store.Told().Select(volume => volume.Name).Order());
        Assert.Empty(Directory.GetFileSystemEntries(root).Where(folder => Path.GetFileName(folder) is not "_").SelectMany(Directory.GetFileSystemEntries));
        if (what == "give")
        {
            Assert.Equal(["disk", "given", "id"], Directory.GetFiles(Path.Combine(root, "_", "data")).Select(Path.GetFileName).Order());
            // Who had it before has it no more.
            Assert.Equal("volume_stale", (await Assert.ThrowsAsync<LaunchFailedException>(() => store.GiveAsync(Launch(First, 1, generation: 1, id: Old), default))).Code);
        }
    }
}
