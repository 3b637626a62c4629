using System.Text.Json;
using Fleet.Vmm.Api;
using Fleet.Vmm.Jail;
using Fleet.Vmm.Tests.Api;
using Xunit;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>The command line of <c>fleet-vmm jail</c>, what it refuses, and fleet-vmm in it.</summary>
public sealed partial class JailCommandTests
{
    private static readonly string[] Least = ["--id", "vm-1", "--uid", "7", "--gid", "8"];

    [Fact]
    public void Should_understand_a_whole_command_line()
    {
        var options = JailOptions.Parse([.. Least, "--chroot-base-dir", "/srv/jail", "--cgroup", "cpu.max=100 200", "--cgroup", "pids.max=3", "--cgroup-version", "2", "--parent-cgroup", "a/b",
            "--resource-limit", "fsize=5", "--fd", "3=read:/a=b:c", "--fd", "31=listen:x.sock", "--bind-ro", "/a=/b", "--device", "net/tun", "--new-pid-ns", "--", "--id", "--help"]);
        Assert.Equal(("vm-1", 7u, 8u, "/srv/jail", 2, "a/b"), (options.Id, options.User, options.Group, options.BaseDirectory, options.ControlGroupVersion, options.ParentControlGroup));
        Assert.Equal([("cpu.max", "100 200"), ("pids.max", "3")], options.ControlGroupValues);
        Assert.Equal([(1, 5ul)], options.Limits);
        Assert.Equal([new PassedFile(3, PassedKind.Read, "/a=b:c"), new PassedFile(31, PassedKind.Listen, "x.sock")], options.Passed);
        Assert.Equal([new BoundPath("/a", "/b", true)], options.Bound);
        Assert.Equal(["net/tun"], options.Devices);
        Assert.Equal(["--id", "--help"], options.Arguments);
        Assert.True(JailOptions.Parse(["--help"]).WantsHelp);
    }

    [Theory]
    [InlineData("--uid", "0")]
    [InlineData("--uid", "4294967295")]
    [InlineData("--gid", "-1")]
    [InlineData("--gid", "root")]
    [InlineData("--id", "../x")]
    [InlineData("--id", "a/b")]
    public void Should_refuse_who_may_not_be(string name, string value)
    {
        string[] line = [.. Least];
        line[Array.IndexOf(line, name) + 1] = value;
        Assert.Throws<ArgumentFaultException>(() => JailOptions.Parse(line));
    }

    [Theory]
    [InlineData("--cgroup", "pids.max")]
    [InlineData("--cgroup", "../x.y=1")]
    [InlineData("--cgroup", "tasks=1")]
    [InlineData("--cgroup-version", "3")]
    [InlineData("--parent-cgroup", "../up")]
    [InlineData("--parent-cgroup", "/top")]
    [InlineData("--resource-limit", "fsize=-1")]
    [InlineData("--resource-limit", "stack=1")]
    [InlineData("--fd", "2=read:x")]
    [InlineData("--fd", "32=read:x")]
    [InlineData("--fd", "3=exec:x")]
    [InlineData("--fd", "3=read:")]
    [InlineData("--fd", "3")]
    [InlineData("--bind", "/a=b")]
    [InlineData("--bind", "/a=/../b")]
    [InlineData("--device", "mem")]
    [InlineData("--id", "twice")]
    [InlineData("--no-such", "x")]
    [InlineData("--netns", "--")]
    public void Should_refuse_what_it_does_not_understand(string name, string value) =>
        Assert.Throws<ArgumentFaultException>(() => JailOptions.Parse([.. Least, name, value]));

    [Theory]
    [InlineData("--id")]
    [InlineData("--uid")]
    [InlineData("--gid")]
    public void Should_ask_for_what_it_needs(string name)
    {
        var at = Array.IndexOf(Least, name);
        Assert.Throws<ArgumentFaultException>(() => JailOptions.Parse([.. Least[..at], .. Least[(at + 2)..]]));
        Assert.Throws<ArgumentFaultException>(() => JailOptions.Parse([.. Least, "--fd", "3=read:a", "--fd", "3=read:b"]));
    }

    [Fact]
    public void Should_find_the_control_groups_of_either_version()
    {
        const string Mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\nbroken\n";
        var found = ControlGroups.Find(Mounts, path => path == "/sys/fs/cgroup/unified/cgroup.controllers" ? "io pids\n" : throw new InvalidOperationException(path));
        Assert.Equal([(2, "/sys/fs/cgroup/unified"), (1, "/sys/fs/cgroup/cpu")], found.Select(one => (one.Version, one.MountPoint)));
        Assert.Equal(["io", "pids"], found[0].Controllers);
        Assert.Contains("cpu", found[1].Controllers);
    }

    [SkippableTheory]
    [InlineData("kernel can't be opened", "--fd", "3=read:kernel")]
    [InlineData("can't be opened for the VMM: not a regular file", "--fd", "3=read:/")]
    [InlineData("has the controller 'nosuch'", "--cgroup", "nosuch.max=1")]
    [InlineData("/no/such can't be opened", "--netns", "/no/such")]
    [InlineData("open /no/such: No such file or directory", "--bind", "/no/such=/x")]
    public void Should_start_nothing_without_every_wall(string complaint, params string[] options)
    {
        using var jail = new JailRun();
        var (code, errors) = jail.Start(["--fd", "9=listen:left.sock", .. options], "--version");
        Assert.Equal(1, code);
        Assert.Contains(complaint, errors, StringComparison.Ordinal);
        Assert.False(File.Exists(jail.Files.File("left.sock")));
        Assert.EndsWith("Nothing was started.\n", errors, StringComparison.Ordinal);
        Assert.False(File.Exists(jail.Files.File("pid")) && new FileInfo(jail.Files.File("pid")).Length > 0);
    }

    [SkippableFact]
    public void Should_give_a_disk_that_is_written_to_one_VMM_as_long_as_it_lives()
    {
        using var first = new JailRun("#include <unistd.h>\nint main(void) { pause(); return 0; }\n");
        using var second = new JailRun("int main(void) { return 7; }\n");
        var disk = first.Files.File("disk");
        File.WriteAllText(disk, "x");
        Assert.Equal((0, ""), first.Start(["--fd", $"5=edit:{disk}"], "x"));
        var (code, errors) = second.Start(["--fd", $"5=edit:{disk}"], "x");
        Assert.Equal(1, code);
        Assert.Contains($"{disk} can't be opened for the VMM", errors, StringComparison.Ordinal);
        Assert.Equal(0, Native.kill(first.Pid, 9));
        Assert.Equal(128 + 9, first.Wait());
        Assert.Equal(7, second.Try("x", "--fd", $"5=edit:{disk}"));
    }

    [SkippableFact]
    public void Should_undo_its_control_groups_when_a_later_wall_fails()
    {
        using var jail = new JailRun();
        Skip.If(!ControlGroups.Find(File.ReadAllText("/proc/self/mounts"), File.ReadAllText).Exists(one => one.Controllers.Contains("pids")), "no control group has the controller pids");
        Assert.Equal(1, jail.Start(["--cgroup", "pids.max=9", "--bind", "/no/such=/x"], "--version").Code);
        Assert.DoesNotContain(ControlGroups.Find(File.ReadAllText("/proc/self/mounts"), File.ReadAllText), one => Directory.Exists($"{one.MountPoint}/fleet-test/{jail.Id}"));
    }

    [SkippableFact]
    public void Should_refuse_a_program_that_needs_libraries()
    {
        using var jail = new JailRun();
        Assert.Equal((0, ""), jail.Start(["--exec-file", "/bin/true"]));
        Assert.Equal(1, jail.Wait());
    }

    [SkippableFact]
    public void Should_run_the_VMM_with_files_that_it_could_not_open_itself()
    {
        using var jail = new JailRun();
        var config = jail.Files.File("config.json", "{}");
        File.SetUnixFileMode(config, UnixFileMode.None);
        Assert.Equal((0, ""), jail.Start(["--fd", "3=listen:api.sock", "--fd", "4=read:config.json", "--fd", "5=write:exit.json"], "--api-sock", "/dev/fd/3", "--exit-file", "/dev/fd/5"));
        using (var client = new RawClient(jail.Files.File("api.sock")))
        {
            Assert.Equal(200, client.Request("GET", "/").Status);
            var (status, body) = client.Request("PUT", "/boot-source", """{"kernel_image_path": "/etc/passwd"}""");
            Assert.Equal(400, status);
            Assert.Contains("No such file or directory", body, StringComparison.Ordinal);
            Assert.Equal(204, client.Request("PUT", "/boot-source", """{"kernel_image_path": "/dev/fd/4"}""").Status);
            Assert.Equal(400, client.Request("PUT", "/boot-source", """{"kernel_image_path": "/dev/fd/9"}""").Status);
        }

        // The first process of a pid namespace gets only the signals that it asked for.
        Assert.Equal(0, Native.kill(jail.Pid, 15));
        Assert.Equal(0, jail.Wait());
        using var end = JsonDocument.Parse(File.ReadAllText(jail.Files.File("exit.json")));
        Assert.Equal("stopped", end.RootElement.GetProperty("reason").GetString());
    }

    [SkippableFact]
    public void Should_confine_to_a_folder_as_Firecrackers_jailer_does()
    {
        using var jail = new JailRun();
        Assert.Equal((0, ""), jail.Start(["--chroot-base-dir", jail.Files.File("base")], "--api-sock", "/run/api.sock"));
        var root = jail.Files.File($"base/fleet-vmm/{jail.Id}/root");
        Assert.True(SpinWait.SpinUntil(() => File.Exists(root + "/run/api.sock"), TimeSpan.FromSeconds(10)));
        using var client = new RawClient($"/proc/{jail.Pid}/root/run/api.sock");
        Assert.Equal(200, client.Request("GET", "/version").Status);
    }

    /// <summary>A VMM that was broken into owns its root; the next jail is built there by root.</summary>
    [SkippableTheory]
    [InlineData("run")]
    [InlineData("dev")]
    [InlineData("dev/kvm")]
    [InlineData(".old")]
    [InlineData("inside")]
    [InlineData("inside/file")]
    public void Should_follow_no_link_that_an_earlier_life_left(string link)
    {
        using var jail = new JailRun();
        var victim = jail.Files.File("victim");
        Directory.CreateDirectory(victim);
        File.WriteAllText(victim + "/kvm", "the host's");
        File.WriteAllText(victim + "/file", "the host's");
        var place = jail.Files.File($"base/fleet-vmm/{jail.Id}/root/{link}");
        Directory.CreateDirectory(Path.GetDirectoryName(place)!);
        File.CreateSymbolicLink(place, link.Contains('/') ? victim + "/" + Path.GetFileName(link) : victim);
        var source = jail.Files.File("source");
        File.WriteAllText(source, "shown");

        var (code, errors) = jail.Start(["--chroot-base-dir", jail.Files.File("base"), "--bind-ro", $"{source}=/inside/file"], "--api-sock", "/run/api.sock");

        if (link == "dev/kvm")
        {
            // The link itself is what was replaced.
            Assert.Equal((0, ""), (code, errors));
        }
        else
        {
            Assert.Equal(1, code);
            Assert.Contains("Nothing was started.", errors, StringComparison.Ordinal);
        }

        Assert.Equal(["file", "kvm"], Directory.GetFileSystemEntries(victim).Select(Path.GetFileName).Order());
        Assert.Equal("the host's", File.ReadAllText(victim + "/kvm"));
        Assert.Equal("the host's", File.ReadAllText(victim + "/file"));
        Assert.Equal(0, Chown.OwnerOf(victim));
    }

    [SkippableFact]
    public void Should_refuse_a_folder_of_jails_that_somebody_else_owns()
    {
        using var jail = new JailRun();
        var folder = jail.Files.File("base/fleet-vmm");
        Directory.CreateDirectory(folder);
        Chown.To(folder, 1879048193);
        var (code, errors) = jail.Start(["--chroot-base-dir", jail.Files.File("base")], "--api-sock", "/run/api.sock");
        Assert.Equal(1, code);
        Assert.Contains("belongs to somebody else than root", errors, StringComparison.Ordinal);
    }

    private static partial class Chown
    {
        public static int OwnerOf(string path)
        {
            using var stat = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("stat", ["-c", "%u", path]) { RedirectStandardOutput = true })!;
            return int.Parse(stat.StandardOutput.ReadToEnd(), System.Globalization.CultureInfo.InvariantCulture);
        }

        public static void To(string path, uint user) => Assert.Equal(0, chown(path, user, user));

        [System.Runtime.InteropServices.LibraryImport("libc", StringMarshalling = System.Runtime.InteropServices.StringMarshalling.Utf8)]
        private static partial int chown(string path, uint user, uint group);
    }
}
