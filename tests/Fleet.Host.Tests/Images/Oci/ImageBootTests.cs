using System.Text.Json.Nodes;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Fleet.Host.Images.Oci;
using Fleet.Host.Tests.Drivers;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>OCI images booted for real under QEMU.</summary>
[Trait("Kind", "Slow")]
public sealed class ImageBootTests : IDisposable
{
    private const string Busybox = "/bin/busybox";

    private static readonly TimeSpan Boot = TimeSpan.FromSeconds(120);

    private readonly TestFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [SkippableFact]
    public async Task A_command_runs_as_its_image_says_in_a_root_of_its_own()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var store = await StoreAsync(new JsonObject
        {
            ["Entrypoint"] = new JsonArray("sh", "-c"),
            ["Cmd"] = new JsonArray("echo the image\\'s own"),
            ["Env"] = new JsonArray("FROM=image", "BOTH=image"),
            ["User"] = "app",
            ["WorkingDir"] = "/srv/made/here",
        });
        const string script = "echo $(id -u):$(id -g):$(id -G) $(pwd) $FROM $BOTH $HOME; cat /etc/greeting; ls /secret; cat /tmp/mark; touch /tmp/mark; touch /etc/x;"
            + " mount | grep -c '^overlay on / '; echo out >/dev/stdout; exit 5";
        // Twice: what the first wrote the second does not see.
        for (var i = 0; i < 2; i++)
        {
            var spec = Spec(script);
            spec.Env["BOTH"] = "spec";
            var (end, console) = await RunAsync(scratch, images, spec, store);
            Assert.Equal((true, "command_exited", 5), (end.InOrder, end.Reason.Code, end.Exit?.Status));
            Assert.Equal(
                "1000:1001:1001 1002 /srv/made/here image spec /home/app\nhello from the image\nls: can't open '/secret': Permission denied\n"
                + "cat: can't open '/tmp/mark': No such file or directory\ntouch: /etc/x: Permission denied\n1\nout\n", console);
        }
        var (own, text) = await RunAsync(scratch, images, Spec(), store);
        Assert.Equal((0, "the image's own\n"), (own.Exit?.Status, text));
    }

    [SkippableFact]
    public async Task The_root_itself_is_whose_the_image_says()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var store = await StoreAsync(new JsonObject { ["Entrypoint"] = new JsonArray("sh", "-c"), ["User"] = "app" }, tar => tar.Folder("./", 0x1ED, owner: 1000));
        var (end, console) = await RunAsync(scratch, images, Spec("touch /mine && ls /mine"), store);
        Assert.Equal((0, "/mine\n"), (end.Exit?.Status, console));
    }

    [SkippableFact]
    public async Task A_command_that_is_not_there_and_a_user_that_is_not_there_are_told_apart()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var (end, _) = await RunAsync(scratch, images, Spec("no-such-program"), await StoreAsync([]));
        Assert.Equal(127, end.Exit?.Status);
        (end, _) = await RunAsync(scratch, images, Spec("id"), await StoreAsync(new JsonObject { ["User"] = "nobody-knows" }));
        Assert.Contains("nobody-knows", end.Reason.Message, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task The_images_signal_asks_it_to_end()
    {
        await using var scratch = new Scratch();
        using var images = Scratch.Images();
        var store = await StoreAsync(new JsonObject { ["StopSignal"] = "SIGUSR1", ["Cmd"] = new JsonArray("sh", "-c", "trap 'echo asked; exit 9' USR1; echo waiting; while :; do sleep 0.1; done") });
        var launch = Launch(scratch, Spec(), store);
        await using var vmm = await new QemuDriver(Scratch.Options(images)).LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Boot);
        await Scratch.Until(() => Console(launch).Contains("waiting", StringComparison.Ordinal), "the trap is set", 60);
        await vmm.StopAsync(Boot).WaitAsync(Boot);
        Assert.Equal(9, (await vmm.Completion).Exit?.Status);
        Assert.EndsWith("asked\n", Console(launch), StringComparison.Ordinal);
    }

    private static async Task<(VmmEnd End, string Console)> RunAsync(Scratch scratch, IImageSource images, VmSpec spec, ImageStore store)
    {
        var launch = Launch(scratch, spec, store);
        await using var vmm = await new QemuDriver(Scratch.Options(images)).LaunchAsync(launch, default);
        var end = await vmm.Completion.WaitAsync(Boot);
        return (end, Console(launch));
    }

    private static VmmLaunch Launch(Scratch scratch, VmSpec spec, ImageStore store)
    {
        var image = store.List().Single();
        return scratch.Launch(spec) with { Image = new LaunchImage(store.RootOf(image), image.Config) };
    }

    private static string Console(VmmLaunch launch) =>
        File.Exists(Path.Combine(launch.Directory, ConsoleLog.FileName)) ? File.ReadAllText(Path.Combine(launch.Directory, ConsoleLog.FileName)).Replace("\r", "", StringComparison.Ordinal) : "";

    private async Task<ImageStore> StoreAsync(JsonObject config, Action<TarMaker>? more = null)
    {
        Skip.IfNot(File.Exists(Busybox), $"{Busybox} is not installed; run ./fleet build");
        var tar = new TarMaker().Folder("bin").File("bin/busybox", await File.ReadAllBytesAsync(Busybox), 0x1ED);
        foreach (var name in (string[])["sh", "id", "pwd", "cat", "ls", "touch", "mount", "grep", "sleep"]) tar.Symlink($"bin/{name}", "busybox");
        tar.File("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").File("etc/group", "app:x:1001:\nextra:x:1002:app\n")
            .File("etc/greeting", "hello from the image\n").Folder("secret", 0x1C0).Folder("tmp", 0x3FF);
        more?.Invoke(tar);
        var folder = _folder.At(Guid.NewGuid().ToString("n"));
        // The disk is made as a layout, which everybody may read.
        File.SetUnixFileMode(_folder.Path, (UnixFileMode)0x1ED);
        TestImage.Of([tar.ToArray()], config).WriteLayout(folder, "x");
        var store = new ImageStore(Path.Combine(folder, "images"), new ImageStoreOptions { KeptFree = 0 });
        await store.GetAsync($"oci:{folder}", "", null, again: false, default);
        return store;
    }

    private static VmSpec Spec(params string[] command)
    {
        var spec = new VmSpec { Name = "hello", Cpus = 1, MemoryMib = 256 };
        spec.Command.AddRange(command);
        return spec;
    }
}
