using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Host.Tests.Images.Oci;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Images by way of the whole fleet, from a registry on this machine.</summary>
[Trait("Kind", "Slow")]
public sealed class ImageTests
{
    /// <summary>Guests that boot at the same time.</summary>
    private const int AtOnce = 6;

    [SkippableFact]
    public async Task Should_pull_an_image_and_run_it_and_say_why_another_can_not_be_had()
    {
        Skip.IfNot(DockerRegistry.IsInstalled, "docker-registry is not installed; run ./fleet build");
        var folder = Directory.CreateTempSubdirectory("fleet-images-").FullName;
        try
        {
            using var registry = await DockerRegistry.StartAsync(Path.Combine(folder, "registry"));
            var reference = $"{registry.Address}/team/app:v1";
            await PushAsync(reference, folder);
            await using var fleet = await RunningFleet.StartAsync();

            var (exit, output, error) = await fleet.CliAsync("vm", "run", "--name", "first", "--driver", "qemu", "--image", reference, "--env", "B=2", "--", "echo $A $B; id -u; cat /etc/greeting; exit 7");
            Assert.True(exit == 7, $"exit {exit}\n{output}\n{error}\n{fleet.Log()}");
            Assert.Equal("1 2\n1000\nhello from the image\n", output.ReplaceLineEndings("\n"));
            (_, output, _) = await fleet.CliAsync("vm", "show", "first", "--json");
            var vm = JsonDocument.Parse(output).RootElement;
            Assert.Equal(reference, vm.GetProperty("spec").GetProperty("image").GetString());

            (exit, output, error) = await fleet.CliAsync("vm", "run", "--name", "none", "--image", reference + "x");
            Assert.Equal(125, exit);
            Assert.Contains("image_not_found", output + error, StringComparison.Ordinal);
            (exit, _, error) = await fleet.CliAsync("vm", "run", "--name", "wrong", "--image", "No Name");
            Assert.Equal(125, exit);
            Assert.Contains("invalid_field", error, StringComparison.Ordinal);

            (_, output, _) = await fleet.CliAsync("image", "list");
            Assert.Contains(reference, output, StringComparison.Ordinal);
            Assert.Equal(0, (await fleet.CliAsync("image", "remove", reference)).Exit);
            Assert.Equal(3, (await fleet.CliAsync("image", "remove", reference)).Exit);
            (exit, output, error) = await fleet.CliAsync("image", "pull", reference);
            Assert.True(exit == 0, error);
            Assert.Contains("sha256:", output, StringComparison.Ordinal);

            (exit, output, error) = await fleet.CliWithInputAsync("open sesame\n", "image", "login", "registry.example:5000", "--user", "builder");
            Assert.Equal((0, "Whoever may run microVMs on this host, tenants too, can use what this user may read at registry.example:5000.\n", ""), (exit, output, error));
            var credentials = Path.Combine(fleet.Data, "host", "images", "registries.json");
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(credentials));
            Assert.Equal(Convert.ToBase64String("builder:open sesame"u8), (string?)JsonNode.Parse(await File.ReadAllTextAsync(credentials))!["auths"]!["registry.example:5000"]!["auth"]);
            Assert.Equal(2, (await fleet.CliWithInputAsync("", "image", "login", "registry.example", "--user", "builder")).Exit);
            Assert.Equal(2, (await fleet.CliWithInputAsync("x\n", "image", "login", "https://registry.example", "--user", "builder")).Exit);
            Assert.Equal(0, (await fleet.CliAsync("image", "logout", "registry.example:5000")).Exit);
            Assert.Equal(3, (await fleet.CliAsync("image", "logout", "registry.example:5000")).Exit);
            await fleet.DeleteAsync(vm);

            // Several at once, of one that is not here: a guest's root stays whatever is removed, and the next start has it again.
            Assert.Equal(0, (await fleet.CliAsync("image", "remove", reference)).Exit);
            var spec = new JsonObject { ["driver"] = "qemu", ["memory_mib"] = 128, ["image"] = reference, ["command"] = new JsonArray("while :; do sleep 1; done") };
            var guests = await Task.WhenAll(Enumerable.Range(0, AtOnce).Select(_ => fleet.CreateAsync(spec.DeepClone())));
            var ids = guests.Select(guest => guest.GetProperty("id").GetString()!).ToArray();
            await Task.WhenAll(ids.Select(id => fleet.WaitForAsync(id, "running", 120)));
            await RunningFleet.WaitAsync("every guest's answer", async () =>
                (await Task.WhenAll(ids.Select(id => fleet.CliAsync("vm", "exec", id, "--", "cat", "/etc/greeting")))).All(answer => answer is (0, "hello from the image\n", _)), TimeSpan.FromMinutes(2));
            Assert.Equal(0, (await fleet.CliAsync("image", "remove", reference)).Exit);
            Assert.Empty(Directory.EnumerateFiles(Path.Combine(fleet.Data, "host", "images", "roots")));
            (exit, output, error) = await fleet.CliAsync("vm", "exec", ids[0], "--", "sh", "-c", "id -u; cat /etc/greeting");
            Assert.True((exit, output.ReplaceLineEndings("\n")) == (0, "1000\nhello from the image\n"), $"{exit}: {output}\n{error}");
            Assert.Equal(0, (await fleet.CliAsync("vm", "stop", ids[0])).Exit);
            await fleet.WaitForAsync(ids[0], "stopped");
            Assert.Equal(0, (await fleet.CliAsync("vm", "start", ids[0])).Exit);
            Assert.Equal(2, (await fleet.WaitForAsync(ids[0], "running", 120)).GetProperty("epoch").GetInt32());
            Assert.Equal(0, (await fleet.CliAsync("image", "remove", reference)).Exit);
            await Task.WhenAll(guests.Select(fleet.DeleteAsync));
            Assert.Empty(((string[])["roots", "names"]).SelectMany(name => Directory.EnumerateFiles(Path.Combine(fleet.Data, "host", "images", name))));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static async Task PushAsync(string reference, string folder)
    {
        Skip.IfNot(File.Exists("/bin/busybox") && File.Exists("/usr/bin/skopeo"), "busybox-static or skopeo is not installed; run ./fleet build");
        var tar = new TarMaker().Folder("bin").File("bin/busybox", await File.ReadAllBytesAsync("/bin/busybox"), 0x1ED);
        foreach (var name in (string[])["sh", "id", "cat"]) tar.Symlink($"bin/{name}", "busybox");
        tar.File("etc/passwd", "app:x:1000:1000::/:/bin/sh\n").File("etc/greeting", "hello from the image\n");
        var config = new JsonObject { ["Entrypoint"] = new JsonArray("sh", "-c"), ["Env"] = new JsonArray("A=1"), ["User"] = "app" };
        TestImage.Of([tar.ToArray()], config).WriteLayout(Path.Combine(folder, "layout"), "v1");
        using var push = Process.Start("skopeo", ["--insecure-policy", "copy", "--dest-tls-verify=false", $"oci:{folder}/layout:v1", $"docker://{reference}"]);
        await push.WaitForExitAsync();
        Assert.Equal(0, push.ExitCode);
    }
}
