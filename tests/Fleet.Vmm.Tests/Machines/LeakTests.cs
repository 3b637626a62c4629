using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>They count what this process has open, so nothing else of it may run meanwhile.</summary>
[CollectionDefinition("alone", DisableParallelization = true)]
public static class Alone;

[Collection("alone")]
public sealed class LeakTests
{
    private static int Descriptors => Directory.GetFileSystemEntries("/proc/self/fd").Length;

    [SkippableFact]
    public void Should_leave_no_descriptor_and_no_thread_behind()
    {
        OneLife();
        var before = Descriptors;
        for (var i = 0; i < 20; i++)
        {
            OneLife();
        }

        // The runtime opens one or two of its own now and then: a leak per machine would show as 20 and more.
        Assert.InRange(Descriptors, 0, before + 10);
        Assert.DoesNotContain(
            Directory.GetDirectories("/proc/self/task"),
            task => File.Exists(task + "/comm") && File.ReadAllText(task + "/comm").StartsWith("vcpu 7", StringComparison.Ordinal));

        static void OneLife()
        {
            using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), vcpus: 8);
            run.After(TimeSpan.FromMilliseconds(1), run.Machine.Stop);
            run.RunToEnd();
        }
    }

    [SkippableFact]
    public void Should_leave_no_descriptor_behind_when_it_refuses()
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        var folder = Directory.CreateTempSubdirectory("fleet-vmm-test-").FullName;
        using var loop = new EventLoop();
        try
        {
            var kernel = Path.Combine(folder, "kernel");
            File.WriteAllBytes(kernel, ElfImage.Linux64(GuestPrograms.Spin));
            var settings = new MachineSettings { Vcpus = 4, MemoryMib = 16, KernelPath = kernel, BootArgs = "", StatusPortPath = "/nowhere/status" };
            Refuse();
            var before = Descriptors;
            for (var i = 0; i < 20; i++)
            {
                Refuse();
            }

            Assert.InRange(Descriptors, 0, before + 10);

            void Refuse() => Assert.Equal(
                MachineFault.Other, Assert.Throws<MachineException>(() => new MachineFactory(-1, -1, Assert.Fail).Build(settings, loop)).Fault);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
