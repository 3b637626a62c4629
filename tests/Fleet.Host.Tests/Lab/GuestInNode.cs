using System.Diagnostics;
using System.Text.Json.Nodes;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Images;
using Fleet.Host.Lab;
using Fleet.Tests;
using Serilog.Core;

namespace Fleet.Host.Tests.Lab;

/// <summary>One node for all tests that boot guests in it, one after the other.</summary>
[CollectionDefinition(Name)]
public sealed class NodeForGuests : ICollectionFixture<LabNodeFixture>
{
    public const string Name = "guests in a lab node";
}

/// <summary>The default image under fleet-vmm in a lab node, and the node's shell around it.</summary>
/// <param name="fixture">The node.</param>
/// <param name="cpus">vCPUs of the guest.</param>
/// <param name="script">What the guest runs.</param>
/// <param name="devices">The configuration file, but for kernel, size and status port.</param>
internal sealed class GuestInNode(LabNodeFixture fixture, int cpus, string script, JsonObject devices)
{
    /// <summary>A boot takes 5–12 s on an idle machine of 2 cores.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(90);

    /// <summary>
    /// For a script beside a running VMM: its resident KiB, a request to its API or another's (perl-base is in every Debian),
    /// and a wait for a line of a file, which gives up after a minute.
    /// </summary>
    private const string Functions =
        """
        resident() { awk '/VmRSS/ { print $2 }' /proc/$vmm/status; }
        api() { api_of api.sock "$@"; }
        api_of() { perl -MIO::Socket::UNIX -e '
          my ($name, $method, $path, $body) = @ARGV;
          my $socket = IO::Socket::UNIX->new($name) or die "$name: $!";
          printf $socket "%s %s HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", $method, $path, length $body, $body;
          $socket->flush; local $/; my $answer = <$socket>; $answer =~ s/.*?\r\n\r\n//s; print $answer;' "$@"; }
        wait_for() { tries=0; until grep -q "$1" "$2" 2>/dev/null; do tries=$((tries+1)); sleep 0.1
          [ $tries -lt 500 ] || { echo "no $1 in $2:"; cat "$2"; kill $vmm $server; exit 5; }; done; }

        """;

    /// <summary>Puts files into the folder that is the node's working directory; what the node does to them stays in the node.</summary>
    public Action<string>? Prepare { get; init; }

    /// <summary>A program of a source file beside this one, in the folder and in the guest's root.</summary>
    public string? Program { get; init; }

    /// <summary>Shell of the node before the VMM starts, while it runs, and behind it. Each ends with a separator.</summary>
    public string Before { get; init; } = "";

    public string During { get; init; } = "";

    public string After { get; init; } = "";

    /// <summary>Whether it is started as the agent does it. Without, paths are the folder's, and the VMM is the shell's child.</summary>
    public bool Jailed { get; init; } = true;

    /// <summary>More options of the jail.</summary>
    public string Jail { get; init; } = "";

    /// <summary>How the VMM takes requests, and more options of it; null for no API in the jail, and <c>api.sock</c> without.</summary>
    public string? Options { get; init; }

    public async Task<LabResult> RunAsync()
    {
        var vmm = Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");
        Assert.True(File.Exists(vmm), $"{vmm} is missing; build it with: ./fleet build");
        var folder = Directory.CreateTempSubdirectory("fleet-lab-").FullName;
        try
        {
            using var images = new DefaultImageStore(
                new ImageOptions(fixture.Options.CacheDirectory, Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Logger.None);
            var image = await images.GetDefaultAsync(default);
            await images.WriteInitrdAsync(image, new GuestRun(["sh", "-c", script], new Dictionary<string, string>(), "guest"), Path.Combine(folder, "initrd"), default);
            if (Program is not null)
                AddProgram(Program, folder);
            devices["boot-source"] = new JsonObject
            {
                ["kernel_image_path"] = Jailed ? JailCommand.Kernel : image.KernelPath,
                ["initrd_path"] = Jailed ? JailCommand.Initrd : "initrd",
                ["boot_args"] = BootFiles.DefaultArguments,
            };
            devices["machine-config"] = new JsonObject { ["vcpu_count"] = cpus, ["mem_size_mib"] = 256 };
            devices["fleet-status-port"] = new JsonObject { ["output_path"] = Jailed ? JailCommand.Status : "status.log" };
            await File.WriteAllTextAsync(Path.Combine(folder, "vm.json"), devices.ToJsonString());
            await File.WriteAllTextAsync(Path.Combine(folder, "functions"), $"program={vmm}\nimage={image.InitrdPath}\n{Functions}");
            Prepare?.Invoke(folder);

            // Jailed, as the agent does it: the jailer ends when the VMM begins, and the VMM is not the shell's to wait for.
            var start = Jailed
                ? "start() { $program jail --id lab --uid 65534 --gid 65534 --pid-file pid --cgroup memory.max=400000000 --cgroup pids.max=64 --fd 4=read:vm.json --fd 5=write:exit.json "
                    + $"--fd 6=append:status.log --fd 7=read:{image.KernelPath} --fd 8=read:initrd {Jail} -- {Options ?? "--no-api"} --config-file /dev/fd/4 --exit-file /dev/fd/5 2>vmm.log >console.log || cat vmm.log; "
                    + "vmm=$(tail -n 1 pid | cut -d' ' -f1); }; "
                    + "finish() { until [ -s exit.json ] || grep -q ') Z ' /proc/$vmm/stat || [ ! -e /proc/$vmm ]; do sleep 0.1; done; }; "
                : $"start() {{ $program {Options ?? "--api-sock api.sock"} --config-file vm.json --exit-file exit.json <in >console.log 2>vmm.log & vmm=$!; }}; finish() {{ wait $vmm; }}; ";
            const string End = "cat console.log status.log; grep -q '\"code\":0' exit.json || { cat vmm.log exit.json; exit 1; }; ";
            var result = await fixture.RunAsync(
                LabCommand.Shell($". ./functions; {start}{Before}start; {During}finish; {End}{After}exit 0") with { WorkingDirectory = folder }, Limit, TripleFaulted);
            if (result.ExitStatus != 0)
            {
                // With what the guest's end left undone: taps, servers.
                await fixture.ReplaceAsync();
            }

            return result;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    // The emulated processor's own fault, now and then (docs/reliability.md, known and open). Running it again would also hide a
    // defect of ours that is as rare; one that comes every time still fails.
    private static bool TripleFaulted(LabResult result) => result.Output.Contains("triple fault", StringComparison.Ordinal);

    // For the node and for the guest, from a source file beside this one.
    private static void AddProgram(string name, string folder)
    {
        var source = Path.Combine(Checkout.Root, "tests", "Fleet.Host.Tests", "Lab", name + ".c");
        var path = Path.Combine(folder, name);
        using var compiler = Process.Start("gcc", ["-O2", "-static", "-o", path, source]);
        compiler.WaitForExit();
        Assert.Equal(0, compiler.ExitCode);
        AddToInitrd(folder, new CpioWriter().AddFileFrom(name, path, 0x1ED));
    }

    /// <summary>Of two entries with one path, the later one is the guest's.</summary>
    public static void AddToInitrd(string folder, CpioWriter archive)
    {
        using var initrd = new FileStream(Path.Combine(folder, "initrd"), FileMode.Append, FileAccess.Write);
        archive.WriteTo(initrd);
    }
}
