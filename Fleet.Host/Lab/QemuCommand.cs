using System.Globalization;

namespace Fleet.Host.Lab;

/// <summary>The QEMU command line of a node. Paths of the node's own folder are relative: QEMU starts in it.</summary>
internal static class QemuCommand
{
    /// <summary>The kernel's side of the serial console, and QEMU's log of it.</summary>
    public const string SerialLog = "serial.log";

    /// <summary>The named pipes <c>control.in</c> and <c>control.out</c>: a line written into the first reaches the node's control service.</summary>
    public const string Control = "control";

    /// <summary>The folder that a node can write to.</summary>
    public const string Exchange = "exchange";

    public static IReadOnlyList<string> Arguments(string name, NodeImage image, int memoryMib, int cpus) =>
    [
        "-name", $"fleet-lab-{name}",
        // Full emulation; nested SVM with nested paging is what makes /dev/kvm inside. The buffer for translated code
        // would grow to 1 GiB; boots and .NET programs were no slower with 256 MiB. Without erms Linux clears and copies by
        // eight bytes at a time: what that flag calls fast, one `rep stosb`, is emulated byte by byte (a guest's boot took twice as long).
        // fsrm says the same of short moves; QEMU 7.2 has it not yet, and under 10.0 a node with it but without erms did not boot.
        "-machine", "q35,vmport=off", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,+svm,-erms,-fsrm",
        "-smp", Number(cpus), "-m", Number(memoryMib),
        "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", image.KernelPath, "-initrd", image.InitrdPath, "-append", KernelCommandLine(name),
        "-chardev", $"file,id=serial,path={SerialLog},append=on", "-serial", "chardev:serial",
        "-chardev", $"pipe,id=control,path={Control}", "-serial", "chardev:control",
        "-device", "virtio-rng-pci",
        "-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile=",
        // The outer machine's whole file system, read-only; file systems mounted below / are told apart by remap.
        "-fsdev", "local,id=outer,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=outer,mount_tag=outer",
        // mapped-file: owners, modes, links and devices that a node makes stay data, and mean nothing on the outer machine.
        "-fsdev", $"local,id=exchange,path={Exchange},security_model=mapped-file",
        "-device", "virtio-9p-pci,fsdev=exchange,mount_tag=exchange",
    ];

    /// <summary>
    /// A panic ends QEMU (with -no-reboot); the TSC of emulated CPUs counts alike, so the kernel need not distrust it;
    /// mitigations protect nothing here and cost emulated instructions.
    /// </summary>
    private static string KernelCommandLine(string name) =>
        $"console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check hostname={name}";

    private static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);
}
