using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Tests.Api;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>Tests that look at the whole process, and so run while no other test does.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class WholeProcess
{
    public const string Name = "whole process";
}

/// <summary>What a machine opens is closed with it.</summary>
[Collection(WholeProcess.Name)]
public sealed class MachineLeakTests
{
    private const int Lives = 20;

    [SkippableFact]
    public void Should_leave_no_descriptor_and_no_thread_behind()
    {
        AssertNoneLeft(() =>
        {
            using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), vcpus: 8);
            run.After(TimeSpan.FromMilliseconds(1), run.Machine.Stop);
            run.RunToEnd();
        });
        Assert.DoesNotContain(
            Directory.GetDirectories("/proc/self/task"),
            task => File.Exists(task + "/comm") && File.ReadAllText(task + "/comm").StartsWith("vcpu", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void Should_leave_no_descriptor_behind_when_it_refuses()
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        using var files = new ScratchDirectory();
        using var loop = new EventLoop();
        var kernel = files.File("kernel");
        File.WriteAllBytes(kernel, ElfImage.Linux64(GuestPrograms.Spin));
        var settings = new MachineSettings { Vcpus = 4, MemoryMib = 16, KernelPath = kernel, BootArgs = "", StatusPortPath = "/nowhere/status" };

        // VM and vCPUs are made before the status port is found to have no place.
        AssertNoneLeft(() => Assert.Throws<MachineException>(() => new MachineFactory(-1, -1, Assert.Fail, _ => { }).Build(settings, loop)));
    }

    private static void AssertNoneLeft(Action life)
    {
        life();

        // What other tests left to the collector must not go away in between and cover a leak.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = Descriptors();
        for (var i = 0; i < Lives; i++)
        {
            life();
        }

        // The runtime may open a few for itself; a leak of one per life is many more.
        Assert.InRange(Descriptors(), 0, before + Lives / 4);
    }

    private static int Descriptors() => Directory.GetFileSystemEntries("/proc/self/fd").Length;
}
