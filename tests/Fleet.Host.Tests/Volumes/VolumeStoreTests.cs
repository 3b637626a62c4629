using System.Runtime.InteropServices;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Snapshots;
using Fleet.Host.Volumes;
using Fleet.Shared.Contracts;
using Microsoft.Win32.SafeHandles;
using Serilog.Core;

namespace Fleet.Host.Tests.Volumes;

/// <summary>Real files, real locks, real processes in the place of VMMs.</summary>
public sealed partial class VolumeStoreTests : IDisposable
{
    private const string First = "vm-01jd8mbr4v3s6q8k2n0x5t0001";
    private const string Second = "vm-01jd8mbr4v3s6q8k2n0x5t0002";
    private const long Mib = 1 << 20;
    private const long Written = 32 * Mib;
    private const int WrittenBytes = 30_000_000;

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-volumes-").FullName;
    private long _free = long.MaxValue / 2;

    private string Root => Path.Combine(_folder, "volumes");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task A_volume_is_made_once_with_its_size_and_keeps_what_was_written()
    {
        string disk;
        using (var given = await Store().GiveAsync(Launch(First, 1, generation: 1), default))
            disk = Assert.Single(given.Disks);
        Assert.Equal(64 * Mib, new FileInfo(disk).Length);
        Assert.True(Posix.AllocatedBytes(disk) < 16 * Mib, "it is sparse");
        Assert.Equal([0x53, 0xEF], Bytes(disk, 1080, 2));
        Write(disk, 40 * Mib, "kept");

        // Another microVM, another agent, and another size is asked for.
        using (var given = await Store().GiveAsync(Launch(Second, 1, generation: 2, sizeMib: 128), default))
            Assert.Equal(disk, Assert.Single(given.Disks));
        Assert.Equal(64 * Mib, new FileInfo(disk).Length);
        Assert.Equal("kept"u8.ToArray(), Bytes(disk, 40 * Mib, 4));
    }

    [Fact]
    public void A_snapshot_leaves_volumes_the_room_that_they_may_grow_to()
    {
        var state = Directory.CreateDirectory(Path.Combine(_folder, "state")).FullName;
        var vm = Directory.CreateDirectory(Path.Combine(state, "vms", "vm-1")).FullName;
        SnapshotFiles.CheckRoom(vm, 1);
        var volume = Directory.CreateDirectory(Path.Combine(state, VolumeStore.FolderName, "_", "data")).FullName;
        using (var disk = File.Create(Path.Combine(volume, "disk")))
            disk.SetLength(new DriveInfo(state).AvailableFreeSpace + (1L << 40)); // others may free some meanwhile
        var refused = Assert.Throws<SnapshotFailedException>(() => SnapshotFiles.CheckRoom(vm, 1));
        Assert.EndsWith("and 0 MiB are free there and not promised to volumes.", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Those_that_are_there_are_told_the_largest_first_and_anew_after_each_change()
    {
        var store = Store();
        Assert.Empty(store.Told());
        _free = 300 * Mib;
        Directory.CreateDirectory(_folder);
        Assert.Equal(44, store.RoomMib());
        // What a suspended microVM is saved in the control plane counts itself, as it does volumes.
        var saved = Directory.CreateDirectory(Path.Combine(_folder, "saved")).FullName;
        using (var memory = File.OpenHandle(Path.Combine(saved, SnapshotFiles.MemoryName(1)), FileMode.Create, FileAccess.Write))
        {
            RandomAccess.Write(memory, new byte[Mib], 0);
            RandomAccess.FlushToDisk(memory);
        }
        File.WriteAllText(Path.Combine(saved, "console.log"), "its own");
        _free = 299 * Mib;
        Assert.Equal(44, store.RoomMib(SnapshotFiles.AllocatedBytes(saved)));
        _free = long.MaxValue / 2;
        var before = store.Changes;
        (await store.GiveAsync(Launch(First, 1, generation: 1), default)).Dispose();
        (await store.GiveAsync(Launch(Second, 1, generation: 1, sizeMib: 128, tenant: "acme"), default)).Dispose();
        Assert.NotEqual(before, store.Changes);
        Assert.Equal([("acme", "data", 128UL), ("", "data", 64UL)], store.Told().Select(volume => (volume.Tenant, volume.Name, volume.SizeMib)));
        // What volumes have of the disk is theirs already.
        _free = 300 * Mib;
        Assert.InRange(store.RoomMib(), 45, 44 + 32);
        before = store.Changes;
        Assert.Null(await store.CarryOutAsync(Order("data"), default));
        Assert.NotEqual(before, store.Changes);
        Assert.Equal(["acme"], store.Told().Select(volume => volume.Tenant));
    }

    [Fact]
    public async Task One_that_was_here_and_is_gone_is_not_made_anew()
    {
        (await Store().GiveAsync(Launch(First, 1, generation: 1), default)).Dispose();
        var next = Launch(First, 2, generation: 2);
        next.Volumes[0].Made = true;
        (await Store().GiveAsync(next, default)).Dispose();
        Directory.Delete(Path.GetDirectoryName(Store().DiskOf("", "data"))!, recursive: true);
        Assert.Equal("volume_lost", (await Assert.ThrowsAsync<LaunchFailedException>(() => Store().GiveAsync(next, default))).Code);
        Assert.False(File.Exists(Store().DiskOf("", "data")), "an empty one was made");
    }

    [Fact]
    public async Task An_older_placement_does_not_get_it_whichever_agent_it_asks()
    {
        (await Store().GiveAsync(Launch(First, 2, generation: 7), default)).Dispose();
        // The same again: an agent that was killed before it had started the VMM.
        (await Store().GiveAsync(Launch(First, 2, generation: 7), default)).Dispose();
        foreach (var older in new[] { Launch(First, 1, generation: 6), Launch(Second, 9, generation: 6), Launch(Second, 2, generation: 7) })
            Assert.Equal("volume_stale", (await Assert.ThrowsAsync<LaunchFailedException>(() => Store().GiveAsync(older, default))).Code);
        (await Store().GiveAsync(Launch(Second, 1, generation: 8), default)).Dispose();
        Assert.Equal("volume_stale", (await Assert.ThrowsAsync<LaunchFailedException>(() => Store().GiveAsync(Launch(First, 2, generation: 7), default))).Code);
    }

    [Fact]
    public async Task The_VMM_of_an_older_placement_is_ended_and_writes_no_more()
    {
        var store = Store();
        var older = Launch(First, 1, generation: 1);
        VmmProcess writer;
        string disk;
        using (var given = await store.GiveAsync(older, default))
        {
            disk = given.Disks[0];
            // A byte at a time, for a minute.
            writer = Vmm(First, $"exec dd if=/dev/urandom of={disk} bs=1 seek={Written} count={WrittenBytes} conv=notrunc status=none", disk);
            await Until(() => Bytes(disk, Written, 4096).Any(written => written > 0));
        }
        // Nobody else can begin as long as it lives.
        var rival = Vmm(Second, "exit 0", disk);
        Assert.Equal(75, (await rival.Ended.WaitAsync(TimeSpan.FromSeconds(20))).ExitCode);
        Assert.False(writer.Ended.IsCompleted);

        using (await store.GiveAsync(Launch(First, 2, generation: 2), default))
        {
            await writer.Ended.WaitAsync(TimeSpan.FromSeconds(20));
            var last = Bytes(disk, Written, WrittenBytes);
            Assert.Equal(0, last[^1]);
            // It can't come back either: what started it would have to have the volume.
            Assert.Equal("volume_stale", (await Assert.ThrowsAsync<LaunchFailedException>(() => Store().GiveAsync(older, default))).Code);
            Assert.Equal(last, Bytes(disk, Written, WrittenBytes));
        }
    }

    [Fact]
    public async Task What_holds_it_and_is_nobodys_VMM_is_left_alone()
    {
        string disk;
        using (var given = await Store().GiveAsync(Launch(First, 1, generation: 1), default))
            disk = given.Disks[0];
        using (File.Open(disk, FileMode.Open, FileAccess.ReadWrite, FileShare.None))
        {
            var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => Store().GiveAsync(Launch(Second, 1, generation: 2), default));
            Assert.Equal("volume_in_use", refused.Code);
            Assert.Equal("volume_in_use", (await Store().CarryOutAsync(Order("data"), default))?.Code);
            Assert.Equal("volume_in_use", (await Store().CarryOutAsync(Order("data", "copy"), default))?.Code);
        }
        (await Store().GiveAsync(Launch(Second, 1, generation: 2), default)).Dispose();
    }

    [Fact]
    public async Task Two_launches_take_turns()
    {
        var store = Store();
        var first = await store.GiveAsync(Launch(First, 1, generation: 1), default);
        var second = store.GiveAsync(Launch(Second, 1, generation: 2), default);
        Assert.False(second.IsCompleted);
        first.Dispose();
        (await second.WaitAsync(TimeSpan.FromSeconds(20))).Dispose();
    }

    [Fact]
    public async Task What_the_disk_has_no_room_for_is_not_made()
    {
        _free = 100 * Mib + VolumeStore.KeptFree;
        (await Store().GiveAsync(Launch(First, 1, generation: 1), default)).Dispose();
        // The first was promised 64 MiB, of which it has not taken much yet.
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => Store().GiveAsync(Launch(Second, 1, generation: 1, name: "other"), default));
        Assert.Equal("volume_no_room", refused.Code);
        Assert.Equal("volume_no_room", (await Store().CarryOutAsync(Order("data", "copy"), default))?.Code);
        Assert.False(Directory.Exists(Path.GetDirectoryName(Store().DiskOf("", "other"))));
        Assert.Empty(Directory.GetDirectories(Path.Combine(Root, ".making")));
    }

    [Fact]
    public async Task A_copy_has_the_bytes_and_the_holes_and_a_removed_one_is_made_anew()
    {
        var store = Store();
        string disk;
        using (var given = await store.GiveAsync(Launch(First, 1, generation: 1), default))
            disk = given.Disks[0];
        Write(disk, 50 * Mib, "kept");
        Assert.Null(await store.CarryOutAsync(Order("data", "copy"), default));
        Assert.Null(await store.CarryOutAsync(Order("data", "copy"), default));
        var copy = store.DiskOf("", "copy");
        Assert.Equal(await File.ReadAllBytesAsync(disk), await File.ReadAllBytesAsync(copy));
        Assert.True(Posix.AllocatedBytes(copy) < 16 * Mib, "it is sparse");
        Assert.Equal("volume_not_made", (await store.CarryOutAsync(Order("none", "copy2"), default))?.Code);

        Assert.Null(await store.CarryOutAsync(Order("data"), default));
        Assert.Null(await store.CarryOutAsync(Order("data"), default));
        Assert.False(Directory.Exists(Path.GetDirectoryName(store.DiskOf("", "data"))));
        using (var given = await store.GiveAsync(Launch(First, 2, generation: 1), default))
            Assert.NotEqual("kept"u8.ToArray(), Bytes(given.Disks[0], 50 * Mib, 4));
        Assert.Equal("kept"u8.ToArray(), Bytes(copy, 50 * Mib, 4));
    }

    [SkippableFact]
    public async Task One_is_made_while_another_is_copied_and_the_copy_has_its_room()
    {
        var slow = new SlowCopy();
        var store = new VolumeStore(Root, FolderOfVm, slow, Logger.None, _ => _free);
        using (var given = await store.GiveAsync(Launch(First, 1, generation: 1), default))
            Write(given.Disks[0], 50 * Mib, "kept");
        var copying = Task.Run(() => store.CarryOutAsync(Order("data", "copy"), default));
        await Until(() => slow.Begun.IsSet || copying.IsCompleted);
        // A file system that shares bytes has nothing to wait for.
        Skip.If(copying.IsCompleted, "copies take no time here");
        try
        {
            (await store.GiveAsync(Launch(Second, 1, generation: 1, name: "other"), default).WaitAsync(TimeSpan.FromSeconds(20))).Dispose();
            // All three are promised 64 MiB, the copy too, of which nothing is in its place yet.
            _free = (3 * 64) * Mib + VolumeStore.KeptFree;
            Assert.Equal("volume_no_room", (await Assert.ThrowsAsync<LaunchFailedException>(() => store.GiveAsync(Launch(Second, 1, generation: 1, name: "third"), default))).Code);
        }
        finally
        {
            slow.GoOn.Set();
        }
        Assert.Null(await copying);
        Assert.Equal("kept"u8.ToArray(), Bytes(store.DiskOf("", "copy"), 50 * Mib, 4));
    }

    /// <summary>Stands still when the bytes of a copy are to be read.</summary>
    private sealed class SlowCopy : TimeProvider
    {
        public ManualResetEventSlim Begun { get; } = new();

        public ManualResetEventSlim GoOn { get; } = new();

        public override long GetTimestamp()
        {
            Begun.Set();
            GoOn.Wait();
            return base.GetTimestamp();
        }
    }

    [Fact]
    public async Task One_is_made_while_others_are_removed()
    {
        var store = Store();
        (await store.GiveAsync(Launch(First, 1, generation: 1), default)).Dispose();
        var others = Enumerable.Range(0, 400).Select(number => $"other-{number}").ToList();
        foreach (var disk in others.Select(name => store.DiskOf("", name)))
        {
            Directory.CreateDirectory(Path.GetDirectoryName(disk)!);
            await File.WriteAllBytesAsync(disk, [1]);
        }
        var removing = Task.Run(async () =>
        {
            foreach (var name in others)
                Assert.Null(await store.CarryOutAsync(Order(name), default));
        });
        for (var copy = 0; !removing.IsCompleted; copy++)
            Assert.Null(await store.CarryOutAsync(Order("data", $"copy-{copy}"), default));
        await removing;
    }

    [Fact]
    public async Task Two_tenants_have_volumes_of_one_name()
    {
        using var one = await Store().GiveAsync(Launch(First, 1, generation: 1, tenant: "acme"), default);
        using var other = await Store().GiveAsync(Launch(Second, 1, generation: 1, tenant: "other"), default);
        Assert.NotEqual(one.Disks[0], other.Disks[0]);
    }

    [Fact]
    public async Task What_a_killed_agent_left_half_done_is_no_volume_and_goes()
    {
        Directory.CreateDirectory(Path.Combine(Root, ".making", "x"));
        File.WriteAllText(Path.Combine(Root, ".making", "x", "disk"), "half");
        Directory.CreateDirectory(Path.Combine(Root, ".removed", "y"));
        var store = Store();
        store.RemoveLeftovers();
        Assert.Empty(Directory.GetDirectories(Root));
        (await store.GiveAsync(Launch(First, 1, generation: 1), default)).Dispose();
        // A name can't lead out of the folder.
        Assert.NotNull(await store.CarryOutAsync(new VolumeOrder { Name = "../volumes" }, default));
        Assert.NotNull(await store.CarryOutAsync(new VolumeOrder { Name = "data", Tenant = ".." }, default));
    }

    private VolumeStore Store() => new(Root, FolderOfVm, TimeProvider.System, Logger.None, _ => _free);

    private string FolderOfVm(string vmId) => Path.Combine(_folder, "vms", vmId);

    private VmmProcess Vmm(string vmId, string script, string disk)
    {
        Directory.CreateDirectory(FolderOfVm(vmId));
        return VmmProcess.Start(FolderOfVm(vmId), "/bin/sh", ["-c", script], [disk]);
    }

    private static LaunchVm Launch(string vmId, ulong epoch, ulong generation, ulong sizeMib = 64, string name = "data", string tenant = "", string id = "", bool made = false) => new()
    {
        VmId = vmId,
        Epoch = epoch,
        Spec = new VmSpec { Name = "one", Tenant = tenant, Volumes = { new VolumeMount { Name = name, Path = "/data", SizeMib = sizeMib } } },
        Volumes = { new VolumeGrant { Name = name, SizeMib = sizeMib, Generation = generation, Id = id, Made = made } },
    };

    private static VolumeOrder Order(string name, string copyTo = "", string id = "", string sourceId = "") => new() { Name = name, CopyTo = copyTo, Id = id, SourceId = sourceId };

    private static byte[] Bytes(string disk, long at, int count)
    {
        // .NET's own way to open a file asks for a lock, which a VMM has.
        using var file = new SafeFileHandle(open(disk, 0), ownsHandle: true);
        var bytes = new byte[count];
        RandomAccess.Read(file, bytes, at);
        return bytes;
    }

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    private static void Write(string disk, long at, string text)
    {
        using var file = File.OpenHandle(disk, FileMode.Open, FileAccess.ReadWrite);
        RandomAccess.Write(file, System.Text.Encoding.ASCII.GetBytes(text), at);
    }

    private static async Task Until(Func<bool> condition)
    {
        for (var began = TimeProvider.System.GetTimestamp(); !condition(); await Task.Delay(10))
            Assert.True(TimeProvider.System.GetElapsedTime(began) < TimeSpan.FromSeconds(30), "waited in vain");
    }
}
