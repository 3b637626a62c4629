using System.Text.Json.Nodes;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Images;
using Fleet.Host.Images.Oci;
using Fleet.Host.Tests.Images.Oci;

namespace Fleet.Host.Tests.Lab;

/// <summary>An OCI image under fleet-vmm, on a KVM that runs Linux.</summary>
[Trait("Kind", "Slow")]
[Collection(NodeForGuests.Name)]
public sealed class ImageUnderKvmTests(LabNodeFixture fixture)
{
    [SkippableFact]
    public async Task Should_run_as_the_images_user_in_its_root()
    {
        var drive = new JsonObject { ["drive_id"] = "image", ["path_on_host"] = JailCommand.Root, ["is_root_device"] = false, ["is_read_only"] = true };
        var result = await new GuestInNode(fixture, 1, "", new JsonObject { ["drives"] = new JsonArray(drive) })
        {
            Jail = $"--fd 10=read:{VmmFiles.Root}",
            Prepare = Prepare,
        }.RunAsync();

        Assert.Contains("1000 /srv hello from the image\n", result.Output.Replace("\r", "", StringComparison.Ordinal), StringComparison.Ordinal);
        Assert.Contains("FLEET 1 exit 6", result.Output, StringComparison.Ordinal);
    }

    private static void Prepare(string folder)
    {
        Skip.IfNot(File.Exists("/bin/busybox"), "busybox-static is not installed; run ./fleet build");
        var tar = new TarMaker().Folder("bin").File("bin/busybox", File.ReadAllBytes("/bin/busybox"), 0x1ED).Symlink("bin/sh", "busybox")
            .File("etc/passwd", "app:x:1000:1000::/srv:/bin/sh\n").File("etc/greeting", "hello from the image").ToArray();
        var layer = Path.Combine(folder, "layer");
        File.WriteAllBytes(layer, tar);
        RootBuilder.Build([layer], [TarMaker.Digest(tar)], Path.Combine(folder, VmmFiles.Root), ImageLimits.Default, _ => { }, default);
        var run = new GuestRun(["/bin/sh", "-c", "busybox echo $(busybox id -u) $(pwd) $(busybox cat /etc/greeting); exit 6"], new Dictionary<string, string>(), "guest")
        {
            Image = new ImageRun([], [], [], "app", "/srv", 15),
        };
        GuestInNode.AddToInitrd(folder, new CpioWriter().AddFile("fleet/run.json", DefaultImageStore.RunJson(run), 0x100));
    }
}
