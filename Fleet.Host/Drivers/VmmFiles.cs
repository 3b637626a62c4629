using Fleet.Host.Consoles;
using Fleet.Host.Logs;
using Fleet.Host.Snapshots;

namespace Fleet.Host.Drivers;

/// <summary>What stands in a microVM's directory. All names are relative: the directory is the VMM's working directory.</summary>
internal static class VmmFiles
{
    /// <summary>Who the VMM's process is; written by itself before it becomes the VMM.</summary>
    public const string Pid = "vmm.pid";

    /// <summary>The user that a jailed VMM runs as.</summary>
    public const string User = "vmm.uid";

    /// <summary>FIFO, the VMM's standard input: the guest's serial input.</summary>
    public const string ConsoleInput = "console.in";

    /// <summary>What the guest wrote to its second serial port.</summary>
    public const string Status = "status.log";

    /// <summary>The VMM's standard error.</summary>
    public const string Log = "vmm.log";

    /// <summary>QEMU's notes on CPU resets: tells a triple fault from an orderly reset.</summary>
    public const string ResetLog = "reset.log";

    /// <summary>The initrd made for this microVM.</summary>
    public const string Initrd = "initrd";

    /// <summary>The root file system of an OCI image: a hard link to the host's one file of it, which lives as long as this.</summary>
    public const string Root = "root.squashfs";

    /// <summary>What fleet-vmm is to run.</summary>
    public const string Configuration = "config.json";

    /// <summary>What fleet-vmm tells its guest of itself.</summary>
    public const string Metadata = "metadata.json";

    /// <summary>fleet-vmm's last words.</summary>
    public const string Exit = "exit.json";

    /// <summary>fleet-vmm's API.</summary>
    public const string ApiSocket = "api.sock";

    /// <summary>QEMU's machine protocol.</summary>
    public const string QmpSocket = "qmp.sock";

    /// <summary>Leads to fleet-init in the guest.</summary>
    public const string GuestSocket = "guest.sock";

    private static readonly string[] All =
        [GuestSocket, Pid, User, ConsoleInput, Status, Log, ResetLog, Initrd, Root, Configuration, Metadata, Exit, ApiSocket, QmpSocket, ConsoleLog.FileName];

    /// <summary>Makes the directory, or empties it of an earlier launch's files.</summary>
    public static void Prepare(string directory)
    {
        Directory.CreateDirectory(directory);
        foreach (string name in All) File.Delete(Path.Combine(directory, name));
        LogSegments.Delete(directory);
        SnapshotFiles.DeleteOthers(directory);
    }

    /// <summary>Leaves what a microVM that was saved goes on with: its console, its log, its guest's status, its image, its snapshot.</summary>
    public static void PrepareResume(string directory, ulong snapshotEpoch)
    {
        foreach (string name in All)
        {
            if (name is not (Status or Root or ConsoleLog.FileName)) File.Delete(Path.Combine(directory, name));
        }
        SnapshotFiles.DeleteOthers(directory, snapshotEpoch);
    }
}
