using Fleet.Host.Drivers.Processes;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Serilog.Core;
using Xunit;

namespace Fleet.Host.Tests.State;

public sealed class StateDirectoryTests : IDisposable
{
    private const string Id = "vm-01jd8mbr4v3s6q8k2n0x5t7w9z";
    private readonly string _root = Directory.CreateTempSubdirectory("fleet-state-").FullName;

    public void Dispose() => Directory.Delete(_root, true);

    [Fact]
    public void Should_read_back_what_it_wrote()
    {
        using (var state = StateDirectory.Open(_root, Logger.None))
        {
            state.Write(Record(1), durable: true);
            state.Write(Record(2), durable: false);
        }

        using var again = StateDirectory.Open(_root, Logger.None);
        Assert.Equal(Record(2), Assert.Single(again.ReadAll()));
    }

    [Fact]
    public void Should_show_what_users_asked_for_to_nobody_else()
    {
        File.SetUnixFileMode(_root, (UnixFileMode)0x1ed); // 0755: somebody made it first
        using var state = StateDirectory.Open(_root, Logger.None);
        state.Write(Record(1), durable: false);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute, File.GetUnixFileMode(_root));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path.Combine(state.FolderOf(Id), StateDirectory.RecordFile)));
    }

    [Fact]
    public void Should_refuse_a_second_agent()
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        var refused = Assert.Throws<AgentStartException>(() => StateDirectory.Open(_root, Logger.None));
        Assert.Contains("Another agent", refused.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("vm-../../../../../../etc/pass")]
    [InlineData("vm-01jd8mbr4v3s6q8k2n0x5t7w9")]
    [InlineData("vm-01JD8MBR4V3S6Q8K2N0X5T7W9Z")]
    [InlineData("vm-01jd8mbr4v3s6q8k2n0x5t7w9z/x")]
    [InlineData("vm-01jd8mbr4v3s6q8k2n0x5t7w9z\n")]
    [InlineData("")]
    public void Should_not_make_a_path_of_what_is_no_id(string id)
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        Assert.Throws<ArgumentException>(() => state.FolderOf(id));
    }

    [Theory]
    [InlineData("garbage")]
    [InlineData("")]
    public void Should_put_a_broken_record_aside_and_go_on(string content)
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        state.Write(Record(1), durable: false);
        File.WriteAllText(Path.Combine(state.FolderOf(Id), "launch.pb"), content);
        Assert.Empty(state.ReadAll());
        Assert.Single(Directory.GetDirectories(Path.Combine(_root, "quarantine")));
        Assert.False(Directory.Exists(state.FolderOf(Id)));
    }

    public static TheoryData<string> Unfit => ["epoch", "report", "other", "removed"];

    [Theory]
    [MemberData(nameof(Unfit))]
    public void Should_put_aside_what_contradicts_itself(string what)
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        var record = Record(1);
        state.Write(record, durable: false);
        switch (what)
        {
            case "epoch":
                record.Report.Epoch = 2;
                break;
            case "report":
                record.Report = null;
                break;
            case "other":
                record.Launch.VmId = record.Report.VmId = "vm-11jd8mbr4v3s6q8k2n0x5t7w9z";
                break;
            case "removed":
                record.Report.State = HostVmState.Removed;
                break;
        }

        File.WriteAllBytes(Path.Combine(state.FolderOf(Id), "launch.pb"), record.ToByteArray());
        Assert.Empty(state.ReadAll());
        Assert.Single(Directory.GetDirectories(Path.Combine(_root, "quarantine")));
    }

    [Fact]
    public void Should_not_forget_a_record_that_cant_be_read_now()
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        state.Write(Record(1), durable: false);
        using (new FileStream(Path.Combine(state.FolderOf(Id), "launch.pb"), FileMode.Open, FileAccess.ReadWrite, FileShare.None))
            Assert.Throws<AgentStartException>(() => state.ReadAll());
        Assert.Single(state.ReadAll());
    }

    [Theory]
    [InlineData("garbage")]
    [InlineData(null)]
    public async Task Should_end_a_vmm_that_no_record_tells_of(string? record)
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        state.Write(Record(1), durable: false);
        var folder = state.FolderOf(Id);
        var path = Path.Combine(folder, "launch.pb");
        if (record is null)
            File.Delete(path);
        else
            await File.WriteAllTextAsync(path, record);
        var vmm = VmmProcess.Start(folder, "/bin/sleep", ["1000"]);
        Assert.Empty(state.ReadAll());
        await vmm.Gone.WaitAsync(TimeSpan.FromSeconds(20));
        Assert.False(Directory.Exists(folder));
    }

    /// <summary>A path that can't be looked at now (here: too many links) is not a path where nothing is.</summary>
    [Fact]
    public void Should_not_take_what_it_can_not_look_at_for_nothing()
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        var folder = state.FolderOf(Id);
        File.CreateSymbolicLink(Path.Combine(_root, "loop"), Path.Combine(_root, "loop"));
        Directory.Delete(Path.Combine(_root, "vms"));
        File.CreateSymbolicLink(Path.Combine(_root, "vms"), Path.Combine(_root, "loop"));
        Assert.False(Directory.Exists(folder));
        Assert.ThrowsAny<IOException>(() => state.Read(Id));
        Assert.ThrowsAny<IOException>(() => state.Remove(Id));
        File.Delete(Path.Combine(_root, "vms"));
    }

    [Fact]
    public void Should_drop_a_folder_that_no_launch_was_written_to()
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        Directory.CreateDirectory(state.FolderOf(Id));
        Assert.Empty(state.ReadAll());
        Assert.False(Directory.Exists(state.FolderOf(Id)));
    }

    [Fact]
    public void Should_finish_a_removal_that_was_cut_short()
    {
        using (StateDirectory.Open(_root, Logger.None))
            Directory.CreateDirectory(Path.Combine(_root, "trash", "vm-half"));
        using var again = StateDirectory.Open(_root, Logger.None);
        Assert.Empty(Directory.GetDirectories(Path.Combine(_root, "trash")));
    }

    /// <summary>By its folder alone it is found again. What can't be ended stands here for a process in state D: one that never says who it is.</summary>
    [Fact]
    [Trait("Kind", "Slow")]
    public void Should_leave_a_folder_where_it_is_while_what_runs_there_can_not_be_ended()
    {
        using var state = StateDirectory.Open(_root, Logger.None);
        state.Write(Record(1), durable: false);
        var folder = state.FolderOf(Id);
        File.WriteAllText(Path.Combine(folder, "launch.pb"), "garbage");
        using (var stuck = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("/bin/sleep", ["1000"]) { WorkingDirectory = folder })!)
        {
            try
            {
                Assert.Throws<IOException>(() => state.Read(Id));
                Assert.True(Directory.Exists(folder));
                Assert.Empty(Directory.GetDirectories(Path.Combine(_root, "quarantine")));
            }
            finally
            {
                stuck.Kill();
                stuck.WaitForExit();
            }
        }
        Assert.Null(state.Read(Id));
        Assert.False(Directory.Exists(folder));
        Assert.Single(Directory.GetDirectories(Path.Combine(_root, "quarantine")));
    }

    [Fact]
    public void Should_count_those_that_go_on()
    {
        Assert.Equal(0, StateDirectory.CountUnended(Path.Combine(_root, "none")));
        using (var state = StateDirectory.Open(_root, Logger.None))
        {
            var id = Id;
            foreach (var reached in new[] { HostVmState.Launching, HostVmState.Running, HostVmState.Ended, HostVmState.Failed })
            {
                var record = Record(1);
                record.Launch.VmId = record.Report.VmId = id;
                record.Report.State = reached;
                state.Write(record, durable: false);
                id = $"vm-{(char)('1' + (int)reached)}{id[4..]}";
            }
            Directory.CreateDirectory(Path.Combine(_root, "vms", "half"));
        }
        Assert.Equal(2, StateDirectory.CountUnended(_root));
    }

    private static LaunchRecord Record(ulong sequence) => new()
    {
        Launch = new LaunchVm { VmId = Id, Epoch = 1, Spec = new VmSpec { Name = "one", Cpus = 1 } },
        Driver = "simulated",
        BootId = "boot",
        Report = new VmReport { VmId = Id, Epoch = 1, Sequence = sequence, State = HostVmState.Launching },
    };
}
