using System.Diagnostics;
using System.Text.Json.Nodes;
using Fleet.Host.Drivers;
using Fleet.Host.Images.Oci;
using Fleet.Tests;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>Against the tools that others use: Debian's docker-registry, skopeo and umoci.</summary>
[Trait("Kind", "Slow")]
public sealed class RealRegistryTests : IDisposable
{
    private readonly TestFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [SkippableFact]
    public async Task What_is_pulled_is_what_umoci_unpacks()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "owners and mounts take root");
        Skip.IfNot(DockerRegistry.IsInstalled, "docker-registry is not installed; run ./fleet build");
        using var registry = await DockerRegistry.StartAsync(_folder.At("registry"));
        var random = new byte[2 << 20];
        new Random(3).NextBytes(random);
        var lower = new TarMaker().Folder("etc").File("etc/passwd", "root:x:0:0::/root:/bin/sh\n").Folder("usr/bin").File("usr/bin/su", random[..5000], 0x9ED)
            .Folder("var/data", 0x1C0, 33).File("var/data/big", random, 0x180, 33).HardLink("var/data/same", "var/data/big").File("var/gone", "x").Symlink("bin", "usr/bin")
            .File("usr/bin/ping", random[..100], 0x1ED, 0, ("user.note", [1, 0, 2])).Folder("opaque").File("opaque/old", "x");
        var upper = new TarMaker().Folder("var").File("var/.wh.gone", []).Folder("opaque").File("opaque/.wh..wh..opq", []).File("opaque/new", "new").File("etc/passwd", "changed\n");
        var image = TestImage.Of([lower.ToArray(), upper.ToArray()], new JsonObject { ["Entrypoint"] = new JsonArray("/bin/su"), ["Env"] = new JsonArray("A=1"), ["User"] = "33", ["StopSignal"] = "SIGQUIT" });
        image.WriteLayout(_folder.At("layout"), "v1");
        Run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", $"oci:{_folder.At("layout")}:v1", $"docker://{registry.Address}/team/app:v1");
        Run("umoci", "unpack", "--image", $"{_folder.At("layout")}:v1", _folder.At("bundle"));
        var store = new ImageStore(_folder.At("images"), new ImageStoreOptions { KeptFree = 0 });

        var pulled = await store.GetAsync($"{registry.Address}/team/app:v1", "", null, again: false, default);

        Assert.Equal(image.Digest, pulled.Digest);
        Assert.Equal(("33", 3, "A=1", "/bin/su"), (pulled.Config.User, pulled.Config.StopSignal, pulled.Config.Env[0], pulled.Config.Entrypoint[0]));
        Directory.CreateDirectory(_folder.At("mnt"));
        const string list = "find . -printf '%P %y %m %U %G %n %l\\n' | sort; find . -type f -exec sha256sum {} + | sort -k2";
        var theirs = Run("sh", "-ec", $"cd {_folder.At("bundle", "rootfs")}; {list}");
        var ours = Run("unshare", "-m", "sh", "-ec", $"mount -t squashfs -o loop,ro {store.RootOf(pulled)} {_folder.At("mnt")}; cd {_folder.At("mnt")}; {list}");
        Assert.Equal(theirs, ours);
        Assert.Contains("opaque/new", ours, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task A_docker_archive_made_by_skopeo_and_the_registrys_second_version_are_read()
    {
        Skip.IfNot(DockerRegistry.IsInstalled, "docker-registry is not installed; run ./fleet build");
        using var registry = await DockerRegistry.StartAsync(_folder.At("registry"));
        var image = TestImage.Of([new TarMaker().File("a", "1").ToArray(), new TarMaker().File("b", "2").ToArray()], new JsonObject { ["Cmd"] = new JsonArray("/a") });
        image.WriteLayout(_folder.At("layout"), "v1");
        Run("skopeo", "--insecure-policy", "copy", $"oci:{_folder.At("layout")}:v1", $"docker-archive:{_folder.At("image.tar")}:team/app:v1");
        Run("skopeo", "--insecure-policy", "copy", "--format", "v2s2", "--dest-tls-verify=false", $"oci:{_folder.At("layout")}:v1", $"docker://{registry.Address}/app:v2s2");
        File.SetUnixFileMode(_folder.Path, (UnixFileMode)0x1ED);
        File.SetUnixFileMode(_folder.At("image.tar"), (UnixFileMode)0x1A4);
        var store = new ImageStore(_folder.At("images"), new ImageStoreOptions { KeptFree = 0 });

        var archive = await store.GetAsync($"docker-archive:{_folder.At("image.tar")}", "", null, again: false, default);
        var docker = await store.GetAsync($"{registry.Address}/app:v2s2", "", null, again: false, default);

        // The same layers, by three ways: the same root.
        Assert.Equal(archive.Root, docker.Root);
        Assert.Equal(["/a"], archive.Config.Cmd);
        Assert.Single(Directory.GetFiles(_folder.At("images", "roots")));
    }

    [SkippableFact]
    public async Task A_registry_that_wants_a_user_and_a_password_gets_what_the_host_was_told()
    {
        Skip.IfNot(DockerRegistry.IsInstalled, "docker-registry is not installed; run ./fleet build");
        const string password = "open sesame: 1";
        using var registry = await DockerRegistry.StartAsync(_folder.At("registry"), "builder:$2b$05$llrfyZHlCssQs9m8slyq/eVBriqMfhTZmJK3B9aTn3bN6JHYmQbuG\n");
        var image = TestImage.Of([new TarMaker().File("a", "1").ToArray()], new JsonObject { ["Cmd"] = new JsonArray("/a") });
        image.WriteLayout(_folder.At("layout"), "v1");
        Run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", $"builder:{password}", $"oci:{_folder.At("layout")}:v1", $"docker://{registry.Address}/app:v1");
        var store = new ImageStore(_folder.At("images"), new ImageStoreOptions { KeptFree = 0 });
        var credentials = new RegistryCredentials(_folder.At("images"));
        var name = $"{registry.Address}/app:v1";

        Assert.Contains("fleet image login", (await Assert.ThrowsAsync<LaunchFailedException>(() => store.GetAsync(name, "", null, again: false, default))).Message, StringComparison.Ordinal);
        Assert.Null(credentials.Set(registry.Address, "builder", password + "?"));
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => store.GetAsync(name, "", null, again: false, default));
        Assert.Equal("image_not_found", refused.Code);
        Assert.DoesNotContain(password, refused.ToString(), StringComparison.Ordinal);
        Assert.Null(credentials.Set(registry.Address, "builder", password));
        Assert.Equal(image.Digest, (await store.GetAsync(name, "", null, again: false, default)).Digest);
    }

    private static string Run(string program, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        Process? process;
        try
        {
            process = Process.Start(start);
        }
        catch (System.ComponentModel.Win32Exception missing)
        {
            throw new SkipException($"{program}: {missing.Message}");
        }
        using (process)
        {
            var errors = process!.StandardError.ReadToEndAsync();
            var output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            Assert.True(process.ExitCode == 0, $"{program} {string.Join(' ', arguments)}: {errors.Result}");
            return output;
        }
    }
}
