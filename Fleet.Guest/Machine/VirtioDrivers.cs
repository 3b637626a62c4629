using System.Text;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;

namespace Fleet.Guest.Machine;

/// <summary>
/// Loads the drivers of the virtio devices that the VMM gave this machine. They are modules in Debian's kernel; a machine
/// without such devices pays nothing for them.
/// </summary>
internal static class VirtioDrivers
{
    private const string Modprobe = "/sbin/modprobe";

    /// <summary>The ACPI id under which a VMM announces virtio-mmio transports.</summary>
    private const string TransportPrefix = "LNRO0005:";

    /// <param name="nullDevice">Descriptor of /dev/null, for modprobe's output.</param>
    /// <param name="complain">Told what can't be loaded.</param>
    public static void Load(int nullDevice, Action<string> complain)
    {
        if (!Files.List("/sys/bus/platform/devices").Any(name => name.StartsWith(TransportPrefix, StringComparison.Ordinal))) return;
        Run(["modprobe", "virtio_mmio"], nullDevice, complain);
        var aliases = new List<string>();
        foreach (var device in Files.List("/sys/bus/virtio/devices"))
        {
            if (Files.Read($"/sys/bus/virtio/devices/{device}/modalias", 256, out _) is { } alias)
            {
                // Busybox's modprobe takes it for a failure to be asked for one driver twice.
                var driver = Encoding.ASCII.GetString(alias).Trim();
                if (!aliases.Contains(driver)) aliases.Add(driver);
            }
        }
        if (aliases.Count > 0) Run(["modprobe", "-a", .. aliases], nullDevice, complain);
    }

    /// <summary>Runs modprobe; what it can't do is told.</summary>
    public static void Run(List<string> command, int nullDevice, Action<string> complain)
    {
        var error = Spawner.Start(Modprobe, command, [], nullDevice, foreground: false, out var pid);
        if (error != 0) complain($"{Modprobe} can't be started: {Files.Describe(error)}");
        else if (ExitStatus.Of(Spawner.Wait(pid)) is not 0 and var status) complain($"{string.Join(' ', command)} ended with status {status}");
    }
}
