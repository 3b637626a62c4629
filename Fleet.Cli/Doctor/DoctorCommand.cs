using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Cli.Access;
using Fleet.Cli.Api;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Fleet.Host.Pressure;
using Fleet.Scheduler.Journal;
using Fleet.Shared.Contracts;

namespace Fleet.Cli.Doctor;

/// <summary><c>fleet doctor</c>: what this machine can do, which driver <c>auto</c> picks, and why; what is missing and what to do.</summary>
internal static class DoctorCommand
{
    private static readonly string[] NetworkTools = ["ip", "nft"];

    private static readonly string[] Tools = ["dpkg-deb", "apt-get", "depmod", "setsid", "prlimit"];

    public static Command Create()
    {
        var doctor = new Command("doctor", "What this machine can do, which driver auto picks, and why");
        doctor.SetAction(async (parsed, cancellation) =>
        {
            var directory = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data));
            var findings = new List<Finding>();
            using var images = new DefaultImageStore(new ImageOptions(directory.Cache, Programs.Init), Serilog.Core.Logger.None);
            var statuses = new List<DriverStatus>();
            foreach (var driver in NodeProcess.Drivers(images, Serilog.Core.Logger.None))
            {
                var status = await driver.ProbeAsync(cancellation);
                statuses.Add(status);
                findings.Add(new Finding("driver " + status.Name, status.Usable ? Mark.Ok : Mark.Missing, status.Detail));
            }

            var auto = DriverChoice.Auto(statuses);
            findings.Add(string.IsNullOrEmpty(auto)
                ? new Finding("auto", Mark.Missing, "no driver of this machine boots a stock kernel; microVMs with driver auto go to other hosts")
                : new Finding("auto", Mark.Ok, $"picks {auto}: the first of kvm, qemu that boots a stock kernel here"));
            findings.AddRange(Machine(directory));
            findings.Add(await FleetAsync(parsed, cancellation));
            Print(parsed, findings, auto);
            return findings.Any(finding => finding.Mark == Mark.Broken) ? ExitCodes.Failed : ExitCodes.Ok;
        });
        return doctor;
    }

    private static IEnumerable<Finding> Machine(DataDirectory data)
    {
        yield return new Finding("machine", Mark.Ok, string.Create(
            CultureInfo.InvariantCulture,
            $"{Environment.ProcessorCount} CPUs, {GC.GetGCMemoryInfo().TotalAvailableMemoryBytes >> 20} MiB, Linux {File.ReadAllText("/proc/sys/kernel/osrelease").Trim()}"));
        foreach (var (what, path, cure) in new[]
        {
            ("fleet-vmm", Programs.Vmm, "run ./fleet build"),
            ("fleet-init", Programs.Init, "run ./fleet build"),
        })
        {
            yield return File.Exists(path) ? new Finding(what, Mark.Ok, path) : new Finding(what, Mark.Broken, $"{path} is not there: {cure}");
        }

        var pressure = PressureProbe.Look();
        yield return new Finding("pressure", pressure.IsTold ? Mark.Ok : Mark.Missing, pressure.Detail);
        var missing = Absent(Tools);
        yield return missing.Length == 0
            ? new Finding("tools", Mark.Ok, string.Join(", ", Tools))
            : new Finding("tools", Mark.Broken, $"not found: {string.Join(", ", missing)}; Fleet wants Debian's apt, kmod and util-linux");
        yield return Networks();
        yield return Disk(data);
        yield return Journal(data);
        if (JournalCheck.LookAtView(data.Scheduler) is ({ } view, var blind))
            yield return blind is null ? new Finding("view", Mark.Ok, view) : new Finding("view", Mark.Broken, blind);
    }

    private static string[] Absent(string[] tools) => [.. tools.Where(tool => !Paths().Any(folder => File.Exists(Path.Combine(folder, tool))))];

    // Only microVMs that ask for a network want these.
    private static Finding Networks()
    {
        var missing = Absent(NetworkTools);
        return missing.Length > 0 ? new Finding("networks", Mark.Missing, $"not found: {string.Join(", ", missing)}; microVMs with a network want Debian's iproute2 and nftables")
            : !File.Exists("/dev/net/tun") ? new Finding("networks", Mark.Missing, "/dev/net/tun is not there; microVMs with a network want the kernel's module tun")
            : !Environment.IsPrivilegedProcess ? new Finding("networks", Mark.Missing, "only root can make networks: run the agent as root")
            : new Finding("networks", Mark.Ok, "ip, nft, /dev/net/tun");
    }

    private static Finding Journal(DataDirectory data) => JournalCheck.Look(data.Scheduler) switch
    {
        (_, { } trouble) => new Finding("journal", Mark.Broken, trouble),
        ({ } file, _) => new Finding("journal", Mark.Ok, file),
        _ => new Finding("journal", Mark.Missing, $"none in {data.Scheduler}: no control plane with a database of its own has run there"),
    };

    private static Finding Disk(DataDirectory data)
    {
        try
        {
            Directory.CreateDirectory(data.Root);
            using (new FileStream(Path.Combine(data.Root, $"doctor-{Guid.NewGuid():n}"), FileMode.CreateNew, FileAccess.Write, FileShare.None, 1, FileOptions.DeleteOnClose))
            {
                // Only a try tells whether this user may.
            }
            var free = new DriveInfo(data.Root).AvailableFreeSpace >> 20;
            return DataDirectory.Tight(data.Root, free) is { } tight
                ? new Finding("data", Mark.Broken, tight)
                : new Finding("data", Mark.Ok, $"{data.Root}, {free} MiB free");
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            return new Finding("data", Mark.Broken, $"can't write to {data.Root} ({refused.Message.TrimEnd('.')}): run as the user that runs Fleet, or choose another --data");
        }
    }

    private static async Task<Finding> FleetAsync(ParseResult parsed, CancellationToken cancellation)
    {
        using var api = new ApiClient(parsed.GetRequiredValue(CommandContext.Api), ApiCredentials.Of(parsed));
        try
        {
            var health = await api.GetAsync("v1/health", cancellation);
            return new Finding("fleet", Mark.Ok, $"version {health.Text("version")} answers at {api.Endpoint}");
        }
        catch (ApiException none)
        {
            // One that answers and says that it can't work is not one that nobody started.
            return new Finding("fleet", none.Code == "unavailable" ? Mark.Broken : Mark.Missing, none.Message);
        }
    }

    private static void Print(ParseResult parsed, List<Finding> findings, string auto)
    {
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, new JsonObject
            {
                ["auto_driver"] = auto,
                ["findings"] = new JsonArray([.. findings.Select(finding => (JsonNode)new JsonObject
                {
                    ["what"] = finding.What, ["mark"] = Word(finding.Mark), ["detail"] = finding.Detail,
                })]),
            });
            return;
        }

        Render.Table(output, ["", "WHAT", "FOUND"], findings.Select(finding => (IReadOnlyList<string>)[Word(finding.Mark), finding.What, finding.Detail]));
    }

    private static string Word(Mark mark) => mark switch { Mark.Ok => "ok", Mark.Missing => "-", _ => "BROKEN" };

    private static string[] Paths() =>
        [.. (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries), "/usr/sbin", "/sbin"];

    private enum Mark
    {
        Ok,

        /// <summary>Not there, and Fleet works without.</summary>
        Missing,

        /// <summary>Fleet does not work until this is mended.</summary>
        Broken,
    }

    private sealed record Finding(string What, Mark Mark, string Detail);
}
