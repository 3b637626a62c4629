using Fleet.Host.Drivers;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Volumes;

/// <summary>Which of several volumes that had one name after the other is meant.</summary>
public sealed partial class VolumeStoreTests
{
    private const string Old = "00000000000000000000000000000001";
    private const string New = "00000000000000000000000000000002";

    [Fact]
    public async Task Another_one_of_its_name_is_given_to_nobody_and_stays_as_it_is()
    {
        string disk;
        using (var given = await Store().GiveAsync(Launch(First, 1, generation: 1, id: Old), default))
            disk = given.Disks[0];
        Write(disk, 50 * Mib, "kept");
        // It was removed in this host's absence, and made anew: its generations began anew too, and may be the higher ones.
        Assert.Equal("volume_unavailable", await CodeOfAsync(Launch(Second, 1, generation: 9, id: New)));
        Assert.Equal("volume_lost", await CodeOfAsync(Launch(Second, 1, generation: 9, id: New, made: true)));
        Assert.Equal("volume_lost", (await Store().CarryOutAsync(Order("data", "copy", id: New, sourceId: New), default))?.Code);
        Assert.False(File.Exists(Store().DiskOf("", "copy")));
        // Nor is it removed in the other's place: that is not here.
        Assert.Null(await Store().CarryOutAsync(Order("data", id: New), default));
        Assert.Equal("kept"u8.ToArray(), Bytes(disk, 50 * Mib, 4));
        // The one that is meant goes on with what it had.
        (await Store().GiveAsync(Launch(First, 2, generation: 2, id: Old, made: true), default)).Dispose();
        Assert.Equal("kept"u8.ToArray(), Bytes(disk, 50 * Mib, 4));

        Assert.Null(await Store().CarryOutAsync(Order("data", id: Old), default));
        Assert.False(File.Exists(disk));
        using (var given = await Store().GiveAsync(Launch(Second, 1, generation: 1, id: New), default))
            Assert.NotEqual("kept"u8.ToArray(), Bytes(given.Disks[0], 50 * Mib, 4));
    }

    [Fact]
    public async Task A_copy_is_not_taken_for_an_earlier_one_of_its_name()
    {
        (await Store().GiveAsync(Launch(First, 1, generation: 1, id: Old), default)).Dispose();
        Assert.Null(await Store().CarryOutAsync(Order("data", "copy", id: Old, sourceId: Old), default));
        Assert.Equal("volume_unavailable", (await Store().CarryOutAsync(Order("data", "copy", id: New, sourceId: Old), default))?.Code);
        Assert.Null(await Store().CarryOutAsync(Order("copy", id: Old), default));
        Assert.Null(await Store().CarryOutAsync(Order("data", "copy", id: New, sourceId: Old), default));
        (await Store().GiveAsync(Launch(Second, 1, generation: 1, name: "copy", id: New, made: true), default)).Dispose();
    }

    /// <summary>An agent of before made it, and knew of no ids.</summary>
    [Fact]
    public async Task One_without_an_id_gets_that_of_the_volume_that_ran_here_and_no_other()
    {
        (await Store().GiveAsync(Launch(First, 1, generation: 1), default)).Dispose();
        // Nobody ran with that one yet, here or anywhere: what is here is an earlier one, or another cell's.
        Assert.Equal("volume_unavailable", await CodeOfAsync(Launch(Second, 1, generation: 2, id: New)));
        // The very same placement again, as it was given by that agent.
        (await Store().GiveAsync(Launch(First, 1, generation: 1, id: Old), default)).Dispose();
        Assert.Equal("volume_lost", await CodeOfAsync(Launch(Second, 1, generation: 2, id: New, made: true)));

        // The same of one that is known to have been used, and then another.
        (await Store().GiveAsync(Launch(First, 1, generation: 1, name: "used"), default)).Dispose();
        (await Store().GiveAsync(Launch(Second, 1, generation: 2, name: "used", id: Old, made: true), default)).Dispose();
        Assert.Equal("volume_lost", await CodeOfAsync(Launch(First, 2, generation: 3, name: "used", id: New, made: true)));
        // A stale launch names nothing.
        (await Store().GiveAsync(Launch(First, 1, generation: 5, name: "late"), default)).Dispose();
        Assert.Equal("volume_stale", await CodeOfAsync(Launch(Second, 1, generation: 4, name: "late", id: Old, made: true)));
        (await Store().GiveAsync(Launch(First, 2, generation: 6, name: "late", id: New, made: true), default)).Dispose();
        // Whoever names no id means the name alone, as ever.
        (await Store().GiveAsync(Launch(First, 3, generation: 7, name: "late"), default)).Dispose();

        (await Store().GiveAsync(Launch(First, 1, generation: 1, name: "plain"), default)).Dispose();
        // One that was never made is not what is here.
        Assert.Null(await Store().CarryOutAsync(Order("plain", id: Old), default));
        Assert.True(File.Exists(Store().DiskOf("", "plain")));
        Assert.Null(await Store().CarryOutAsync(new VolumeOrder { Name = "plain", Id = Old, Made = true }, default));
        Assert.False(File.Exists(Store().DiskOf("", "plain")));
    }

    [Fact]
    public async Task What_is_no_id_is_not_written()
    {
        Assert.Equal("volume_unavailable", await CodeOfAsync(Launch(First, 1, generation: 1, id: "../x")));
        Assert.NotNull(await Store().CarryOutAsync(Order("data", id: "\n"), default));
        Assert.False(Directory.Exists(Root));
    }

    private async Task<string> CodeOfAsync(LaunchVm launch) => (await Assert.ThrowsAsync<LaunchFailedException>(() => Store().GiveAsync(launch, default))).Code;
}
