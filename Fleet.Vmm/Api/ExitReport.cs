using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Api;

/// <summary>Exit codes of the process; Firecracker's.</summary>
internal static class ExitCode
{
    public const int Ok = 0;
    public const int GenericError = 1;
    public const int Unexpected = 2;
    public const int BadConfiguration = 152;
    public const int Arguments = 153;
    public const int CpuTimeExceeded = 154;
    public const int HangUp = 156;
}

/// <summary>
/// How the process ended: its exit code, a stable reason and a sentence. Written to the file of <c>--exit-file</c>, since
/// an agent that restarted meanwhile is no longer the parent and can't ask for the exit status.
/// </summary>
internal sealed record ExitReport(int Code, string Reason, string Message)
{
    public static ExitReport Of(MachineEnd end) => end.Kind switch
    {
        MachineEndKind.GuestShutdown => new(ExitCode.Ok, "guest_shutdown", end.Message),
        MachineEndKind.Stopped => new(ExitCode.Ok, "stopped", end.Message),
        MachineEndKind.GuestCrashed => new(ExitCode.GenericError, "guest_crashed", end.Message),
        MachineEndKind.GuestHalted => new(ExitCode.GenericError, "guest_halted", end.Message),
        MachineEndKind.LeaseOver => new(ExitCode.GenericError, "lease_over", end.Message),
        _ => new(ExitCode.GenericError, "vmm_failed", end.Message),
    };

    /// <summary>The stable code for a machine that could not be built.</summary>
    public static string ReasonOf(MachineFault fault) => fault switch
    {
        MachineFault.KernelMissing => "kernel_missing",
        MachineFault.KernelInvalid => "kernel_invalid",
        MachineFault.InitrdMissing => "initrd_missing",
        MachineFault.InitrdInvalid => "initrd_invalid",
        MachineFault.BootArgsInvalid => "boot_args_invalid",
        MachineFault.OutOfMemory => "out_of_memory",
        MachineFault.KvmUnavailable => "kvm_unavailable",
        _ => "vmm_failed",
    };

    /// <summary>Writes the report in one step: a reader finds all of it or nothing. Throws <see cref="SystemCallException"/>.</summary>
    public void WriteTo(string path) => Descriptors.ReplaceFile(path, [.. JsonText.Write(json =>
    {
        json.WriteStartObject();
        json.WriteNumber("code", Code);
        json.WriteString("reason", Reason);
        json.WriteString("message", Message);
        json.WriteEndObject();
    }), (byte)'\n']);
}
