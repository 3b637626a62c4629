using System.Globalization;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Host.Snapshots;

namespace Fleet.Host.Drivers.Jail;

/// <summary>The command line that starts fleet-vmm in a jail; docs/jail.md. Paths are relative to the microVM's directory.</summary>
internal static class JailCommand
{
    public const string ApiSocket = "/dev/fd/3";
    public const string Configuration = "/dev/fd/4";
    public const string Exit = "/dev/fd/5";
    public const string Status = "/dev/fd/6";
    public const string Kernel = "/dev/fd/7";
    public const string Initrd = "/dev/fd/8";
    public const string Runs = "/dev/fd/9";
    public const string Root = "/dev/fd/10";
    public const string Guest = "/dev/fd/11";
    public const string Tap = "/dev/fd/12";
    public const string Metadata = "/dev/fd/13";

    /// <summary>What it is saved into, one day.</summary>
    public const string SavedState = "/dev/fd/20";
    public const string SavedMemory = "/dev/fd/21";

    /// <summary>What it goes on from.</summary>
    public const string State = "/dev/fd/22";
    public const string Memory = "/dev/fd/23";

    private const int FirstVolume = 24;

    /// <summary>The volume of that number.</summary>
    public static string Volume(int number) => string.Create(CultureInfo.InvariantCulture, $"/dev/fd/{FirstVolume + number}");

    /// <summary>
    /// Where the limit can't be raised as the console goes on, it must not end the console, and a volume is larger than a console: then only the
    /// agent's eye bounds the files.
    /// </summary>
    private const long LargestFile = 1L << 50;

    /// <param name="boot">Null: it goes on from a snapshot.</param>
    /// <param name="user">The microVM's own user and group.</param>
    /// <param name="runs">Takes when the guest runs; null: nobody wants to know.</param>
    public static IReadOnlyList<string> Arguments(VmmLaunch launch, BootFiles? boot, uint user, ControlGroups groups, RunLogs? runs = null)
    {
        string id = user.ToString(CultureInfo.InvariantCulture);
        List<string> arguments =
        [
            "jail", "--id", launch.VmId, "--uid", id, "--gid", id, "--pid-file", VmmFiles.Pid,
            "--resource-limit", string.Create(CultureInfo.InvariantCulture, $"fsize={(Posix.MayLimitOthers && launch.VolumeDisks.Count == 0 ? ConsoleLog.Limit : LargestFile)}"),
            "--fd", "3=listen:" + VmmFiles.ApiSocket,
            "--fd", "5=write:" + VmmFiles.Exit,
            "--fd", "6=append:" + VmmFiles.Status,
            "--fd", "20=write:" + SnapshotFiles.StateName(launch.Epoch),
            "--fd", "21=write:" + SnapshotFiles.MemoryName(launch.Epoch),
        ];
        if (boot is null) arguments.AddRange(["--fd", "22=read:" + SnapshotFiles.StateName(launch.SnapshotEpoch), "--fd", "23=read:" + SnapshotFiles.MemoryName(launch.SnapshotEpoch)]);
        else arguments.AddRange(["--fd", "4=read:" + VmmFiles.Configuration, "--fd", "7=read:" + boot.KernelPath]);
        if (boot?.InitrdPath.Length > 0) arguments.AddRange(["--fd", "8=read:" + boot.InitrdPath]);
        if (boot?.HasRoot ?? launch.Spec.Image.Length > 0) arguments.AddRange(["--fd", "10=read:" + VmmFiles.Root]);
        if (launch.Spec.Boot is null) arguments.AddRange(["--fd", "11=listen:" + VmmFiles.GuestSocket]);
        for (int i = 0; i < launch.VolumeDisks.Count; i++)
        {
            arguments.AddRange(["--fd", string.Create(CultureInfo.InvariantCulture, $"{FirstVolume + i}=edit:{launch.VolumeDisks[i]}")]);
        }
        if (runs is not null) arguments.AddRange(["--fd", "9=append:" + runs.NewFile(launch)]);
        if (launch.Link is { } link) arguments.AddRange(["--fd", "12=tap:" + link.Tap, "--fd", "13=read:" + VmmFiles.Metadata]);
        if (groups.Version > 0)
        {
            arguments.AddRange(["--cgroup-version", groups.Version.ToString(CultureInfo.InvariantCulture), "--parent-cgroup", groups.Parent]);
            foreach (string setting in groups.Settings(launch.Spec.Cpus, launch.Spec.MemoryMib)) arguments.AddRange(["--cgroup", setting]);
        }
        arguments.AddRange(["--", "--api-sock", ApiSocket, "--exit-file", Exit]);
        if (boot is not null) arguments.AddRange(["--config-file", Configuration]);
        // The largest environment and labels, escaped, are larger than what fleet-vmm takes unasked.
        if (launch.Link is not null) arguments.AddRange(["--metadata", Metadata, "--mmds-size-limit", "524288"]);
        if (runs is not null) arguments.AddRange(["--run-log", Runs, "--run-label", runs.Label(launch)]);
        return arguments;
    }
}
