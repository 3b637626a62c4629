using System.Text.Json.Nodes;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Fleet.Host.Lab;
using Fleet.Tests;
using Serilog.Core;

namespace Fleet.Host.Tests.Lab;

/// <summary>The default image under fleet-vmm, on a kernel with hardware KVM: that of a lab node.</summary>
[Trait("Kind", "Slow")]
public sealed class LinuxUnderKvmTests(LabNodeFixture fixture) : IClassFixture<LabNodeFixture>
{
    /// <summary>A boot takes 5–12 s on an idle machine of 2 cores.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(90);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task Should_boot_run_a_command_and_tell_its_status(int cpus)
    {
        var program = Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");
        Assert.True(File.Exists(program), $"{program} is missing; build it with: ./fleet build");
        var folder = Directory.CreateTempSubdirectory("fleet-lab-").FullName;
        try
        {
            using var images = new DefaultImageStore(
                new ImageOptions(fixture.Options.CacheDirectory, Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Logger.None);
            var image = await images.GetDefaultAsync(default);
            var run = new GuestRun(["sh", "-c", "echo hello from $(uname -r) on $(nproc) cpus; exit 7"], new Dictionary<string, string>(), "guest");
            await images.WriteInitrdAsync(image, run, Path.Combine(folder, "initrd"), default);
            await File.WriteAllTextAsync(Path.Combine(folder, "vm.json"), new JsonObject
            {
                ["boot-source"] = new JsonObject
                {
                    ["kernel_image_path"] = image.KernelPath,
                    ["initrd_path"] = "initrd",
                    ["boot_args"] = BootFiles.DefaultArguments,
                },
                ["machine-config"] = new JsonObject { ["vcpu_count"] = cpus, ["mem_size_mib"] = 256 },
                ["fleet-status-port"] = new JsonObject { ["output_path"] = "status.log" },
            }.ToJsonString());

            var result = await fixture.RunAsync(
                LabCommand.Shell($"{program} --no-api --config-file vm.json >console.log; status=$?; cat console.log status.log; exit $status") with { WorkingDirectory = folder },
                Limit);

            Assert.Matches($@"hello from 6\.\S+ on {cpus} cpus\r?\n(.*\n)*FLEET 1 ready\n(.*\n)*FLEET 1 exit 7\n", result.Output);
            Assert.Equal(0, result.ExitStatus);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
