using System.Runtime.InteropServices;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Machine;

/// <summary>What PID 1 asks of the kernel itself.</summary>
internal static class Kernel
{
    private const int RestartNow = 0x01234567, CtrlAltDelSignalsInit = 0;

    /// <summary>
    /// Keeps the kernel's own messages off the console, where they would land in the middle of the command's output;
    /// <c>dmesg</c> has them. Only emergencies still show; a panic raises the level by itself.
    /// </summary>
    public static void KeepMessagesOffConsole() => Files.Write("/proc/sys/kernel/printk", "1 4 1 7"u8);

    /// <summary>Makes Ctrl-Alt-Del, the host's wish to end, a SIGINT to PID 1 instead of a reset.</summary>
    public static void DeliverCtrlAltDel() => Libc.reboot(CtrlAltDelSignalsInit);

    /// <summary>
    /// Ends the machine in order: with <c>reboot=k</c> on its command line the kernel resets through the keyboard controller,
    /// which the VMM takes as the end. Comes back only if the kernel refuses.
    /// </summary>
    public static int PowerDown()
    {
        Libc.sync();
        // "reboot: Restarting system" is an emergency message; silence even those now.
        Files.Write("/proc/sys/kernel/printk", "0 4 0 7"u8);
        Libc.reboot(RestartNow);
        return Marshal.GetLastPInvokeError();
    }
}
