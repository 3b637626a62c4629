using System.Net;
using System.Net.Sockets;
using System.Text.RegularExpressions;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Fleet.Shared.Vms;
using Google.Protobuf.Collections;

namespace Fleet.Scheduler.Sessions;

/// <summary>
/// What an agent may send. It runs beside strangers' code, so every length and every name is looked at before anything else sees it;
/// the first thing that is wrong ends the stream. Sentences for people are cut to size instead: the words of a fault come
/// from whatever failed, and a long one must not cost the host its connection again and again.
/// </summary>
internal static partial class HostMessageRules
{
    /// <summary>Bytes of console in one message.</summary>
    public const int MostConsoleBytes = 64 * 1024;

    private const int MostDrivers = 16;
    private const int MostLabels = 64;
    private const int MostImages = 256;
    private const int MostName = 64;
    private const int MostCpuTemplates = 64;

    [GeneratedRegex("^[a-z0-9_]{1,64}\\z")]
    private static partial Regex CodeForm();

    /// <summary>Makes sentences for people lines of their size, see <see cref="ReasonText"/>.</summary>
    public static void Shorten(HostMessage message)
    {
        switch (message.BodyCase)
        {
            case HostMessage.BodyOneofCase.Hello:
                foreach (var report in message.Hello.Vms)
                    Shorten(report);
                foreach (var driver in message.Hello.Inventory?.Drivers ?? [])
                    driver.Detail = ReasonText.Shorten(driver.Detail);
                Shorten(message.Hello.Pressure);
                break;
            case HostMessage.BodyOneofCase.Report:
                Shorten(message.Report);
                break;
            case HostMessage.BodyOneofCase.Console:
                Shorten(message.Console.Error);
                break;
            case HostMessage.BodyOneofCase.Pressure:
                Shorten(message.Pressure);
                break;
            case HostMessage.BodyOneofCase.VolumeDone:
                Shorten(message.VolumeDone.Problem);
                break;
            case HostMessage.BodyOneofCase.Goodbye:
                message.Goodbye.Reason = ReasonText.Shorten(message.Goodbye.Reason);
                break;
        }
    }

    private static void Shorten(VmReport report)
    {
        Shorten(report.Reason);
        Shorten(report.SuspendFailed?.Reason);
    }

    private static void Shorten(PressureReport? pressure)
    {
        if (pressure is not null)
            pressure.Why = ReasonText.Shorten(pressure.Why);
    }

    private static void Shorten(Reason? reason)
    {
        if (reason is not null)
            reason.Message = ReasonText.Shorten(reason.Message);
    }

    /// <summary>What is wrong with the message; null: nothing.</summary>
    public static string? Check(HostMessage message) => message.BodyCase switch
    {
        HostMessage.BodyOneofCase.Hello => Check(message.Hello),
        HostMessage.BodyOneofCase.Report => Check(message.Report),
        HostMessage.BodyOneofCase.Console => Check(message.Console),
        HostMessage.BodyOneofCase.Limiters => Check(message.Limiters),
        HostMessage.BodyOneofCase.Usage => Check(message.Usage),
        HostMessage.BodyOneofCase.Pressure => Check(message.Pressure),
        HostMessage.BodyOneofCase.Images => CheckImages("images", message.Images.Names),
        HostMessage.BodyOneofCase.Volumes => CheckVolumes("volumes", message.Volumes.Volumes),
        HostMessage.BodyOneofCase.VolumeDone => Check(message.VolumeDone),
        HostMessage.BodyOneofCase.InputTaken => VmId.IsValid(message.InputTaken.VmId) ? null : "input_taken.vm_id is no id of a microVM.",
        HostMessage.BodyOneofCase.GuestFrame => message.GuestFrame.Payload.Length > Frame.MaxPayload
            ? $"guest_frame.payload has {message.GuestFrame.Payload.Length} bytes; at most {Frame.MaxPayload} are taken." : null,
        HostMessage.BodyOneofCase.Heartbeat or HostMessage.BodyOneofCase.Goodbye => null,
        _ => "The message has no body that this version knows.",
    };

    private static string? Check(Hello hello)
    {
        if (!VmSpecRules.IsHostId(hello.HostId))
            return "hello.host_id must match [a-z0-9][a-z0-9-]{0,39}.";
        if (hello.Inventory is not { } inventory)
            return "hello.inventory is missing.";
        if (hello.Vms.Count > VmLimits.MaxVmsPerHost)
            return $"hello.vms has {hello.Vms.Count} entries; at most {VmLimits.MaxVmsPerHost} are taken.";
        var seen = new HashSet<(string, ulong)>(hello.Vms.Count);
        foreach (var report in hello.Vms)
        {
            if (Check(report) is { } wrong)
                return wrong;
            if (!seen.Add((report.VmId, report.Epoch)))
                return $"hello.vms names {report.VmId} epoch {report.Epoch} twice.";
        }
        return Check(inventory)
            ?? (hello.Pressure is { } pressure ? Check(pressure) : null)
            ?? Unfit(hello.AgentVersion, MostName, "hello.agent_version")
            ?? Unfit(hello.BootId, MostName, "hello.boot_id")
            ?? Unfit(hello.StateId, MostName, "hello.state_id")
            ?? Unfit(hello.AgentInstance, MostName, "hello.agent_instance");
    }

    private static string? Check(Inventory inventory)
    {
        if (inventory.Cpus is 0 or > 65_536)
            return $"inventory.cpus is {inventory.Cpus}; 1 to 65536 are possible.";
        if (inventory.MemoryMib > 1UL << 30)
            return $"inventory.memory_mib is {inventory.MemoryMib}; at most {1UL << 30} is possible.";
        if (inventory.DiskMib > VmLimits.MaxHostDiskMib)
            return $"inventory.disk_mib is {inventory.DiskMib}; at most {VmLimits.MaxHostDiskMib} is possible.";
        if (inventory.NetworkMbit > VmLimits.MaxNetworkMbit)
            return $"inventory.network_mbit is {inventory.NetworkMbit}; at most {VmLimits.MaxNetworkMbit} is possible.";
        if (inventory.Iops > VmLimits.MaxIops)
            return $"inventory.iops is {inventory.Iops}; at most {VmLimits.MaxIops} is possible.";
        if (inventory.CpuTemplates.Count > MostCpuTemplates || !inventory.CpuTemplates.All(VmSpecRules.IsCpuTemplate))
            return $"inventory.cpu_templates takes at most {MostCpuTemplates} names that match [a-z0-9][a-z0-9-]{{0,39}}.";
        if (CheckVolumes("inventory.volumes", inventory.Volumes) is { } volumes)
            return volumes;
        if (inventory.Drivers.Count > MostDrivers)
            return $"inventory.drivers has {inventory.Drivers.Count} entries; at most {MostDrivers} are taken.";
        if (inventory.Labels.Count > MostLabels)
            return $"inventory.labels has {inventory.Labels.Count} entries; at most {MostLabels} are taken.";
        if (CheckImages("inventory.images", inventory.Images) is { } images)
            return images;
        foreach (var driver in inventory.Drivers)
        {
            if (Unfit(driver.Name, MostName, "driver.name") is { } wrong)
                return wrong;
        }
        foreach (var (key, value) in inventory.Labels)
        {
            if ((Unfit(key, MostName, "label") ?? Unfit(value, 256, "label value")) is { } wrong)
                return wrong;
        }
        return Unfit(inventory.AutoDriver, MostName, "inventory.auto_driver")
            ?? Unfit(inventory.TransferAddress, 256, "inventory.transfer_address")
            ?? Unfit(inventory.Processor, 256, "inventory.processor")
            ?? Unfit(inventory.Kernel, 256, "inventory.kernel")
            ?? Unfit(inventory.Architecture, MostName, "inventory.architecture");
    }

    private static string? CheckImages(string field, RepeatedField<string> names) => names.Count > MostImages
        ? $"{field} has {names.Count} entries; at most {MostImages} are taken."
        : names.Select(name => Unfit(name, ImageReference.MaxLength, "image")).FirstOrDefault(wrong => wrong is not null);

    private static string? CheckVolumes(string field, RepeatedField<HeldVolume> volumes)
    {
        if (volumes.Count > VolumeRules.MostTold)
            return $"{field} has {volumes.Count} entries; at most {VolumeRules.MostTold} are taken.";
        var seen = new HashSet<string>(volumes.Count, StringComparer.Ordinal);
        foreach (var volume in volumes)
        {
            if (!VolumeRules.IsName(volume.Name) || (volume.Tenant.Length > 0 && !VmSpecRules.IsHostId(volume.Tenant)) || volume.SizeMib > VmLimits.MaxVolumeMib)
                return $"{field} names what can't be a volume.";
            if (!seen.Add(VolumeRules.Key(volume.Tenant, volume.Name)))
                return $"{field} names {volume.Name} twice.";
        }
        return null;
    }

    private static string? Check(VmReport report)
    {
        if (!VmId.IsValid(report.VmId))
            return "report.vm_id is no id of a microVM.";
        if (report.Epoch == 0)
            return $"report of {report.VmId}: epoch 0 was never placed.";
        if (report.State == HostVmState.Unspecified || !Enum.IsDefined(report.State))
            return $"report of {report.VmId}: state {(int)report.State} is unknown.";
        if (report.Exit is { Status: < 0 or > 255 })
            return $"report of {report.VmId}: exit status {report.Exit.Status} is not within 0 to 255.";
        if (report.Reason is { } reason && !CodeForm().IsMatch(reason.Code))
            return $"report of {report.VmId}: reason.code must match [a-z0-9_]{{1,64}}.";
        if (report.Snapshot is { } snapshot && (report.State != HostVmState.Suspended || snapshot.StateSha256.Length != 32 || snapshot.MemorySha256.Length != 32))
            return $"report of {report.VmId}: snapshot goes with a suspended microVM, and has two digests of 32 bytes.";
        if (report.SuspendFailed is { } refused && !CodeForm().IsMatch(refused.Reason?.Code ?? ""))
            return $"report of {report.VmId}: suspend_failed.reason.code must match [a-z0-9_]{{1,64}}.";
        if (report.Addresses is { } addresses && (!Is(addresses.Ipv4, AddressFamily.InterNetwork) || !Is(addresses.Ipv6, AddressFamily.InterNetworkV6)))
            return $"report of {report.VmId}: addresses are none.";
        return Unfit(report.Driver, MostName, "report.driver");

        static bool Is(string text, AddressFamily family) => text.Length <= MostName && IPAddress.TryParse(text, out var address) && address.AddressFamily == family;
    }

    private static string? Check(LimiterFigures figures)
    {
        if (figures.Limiters.Count > VmLimits.MaxVmsPerHost * RateLimitRules.Names.Count)
            return $"limiters has {figures.Limiters.Count} entries; at most {VmLimits.MaxVmsPerHost * RateLimitRules.Names.Count} are taken.";
        var seen = new HashSet<(string, string)>(figures.Limiters.Count);
        foreach (var limiter in figures.Limiters)
        {
            if (!VmId.IsValid(limiter.VmId) || limiter.Epoch == 0)
                return "limiters names what is no microVM or was never placed.";
            if (!RateLimitRules.Names.Contains(limiter.Name))
                return $"limiters of {limiter.VmId}: no limiter has that name.";
            if (!seen.Add((limiter.VmId, limiter.Name)))
                return $"limiters names {limiter.Name} of {limiter.VmId} twice.";
            if (limiter.InForce is { } limit && RateLimitRules.FirstProblem("in_force", limit) is { } problem)
                return $"limiters of {limiter.VmId}: {problem.Message}";
        }
        return null;
    }

    // Figures may be absurd, which the series deal with; names may not.
    private static string? Check(UsageSample sample)
    {
        if (sample.Vms.Count > VmLimits.MaxVmsPerHost)
            return $"usage has {sample.Vms.Count} entries; at most {VmLimits.MaxVmsPerHost} are taken.";
        var seen = new HashSet<string>(sample.Vms.Count, StringComparer.Ordinal);
        foreach (var vm in sample.Vms)
        {
            if (!VmId.IsValid(vm.VmId) || vm.Epoch == 0)
                return "usage names what is no microVM or was never placed.";
            if (!seen.Add(vm.VmId))
                return $"usage names {vm.VmId} twice.";
            if (vm.Guest is { } guest && (guest.AvailableKib > guest.MemoryKib || guest.MemoryKib > VmLimits.MaxMemoryMib * 1024UL || guest.Health > (uint)HealthState.Failing))
                return $"usage of {vm.VmId} has what its guest can't have said.";
        }
        return null;
    }

    private static string? Check(PressureReport pressure) =>
        IsRung(pressure.Cpu) && IsRung(pressure.Memory) ? null : "pressure names a rung that is unknown.";

    private static bool IsRung(PressureRung rung) => rung != PressureRung.Unspecified && Enum.IsDefined(rung);

    private static string? Check(VolumeOrderDone done) =>
        done.Order is not { } order ? "volume_done.order is missing."
        : Unfit(order.Tenant, MostName, "volume_done.order.tenant") ?? Unfit(order.Name, MostName, "volume_done.order.name") ?? Unfit(order.CopyTo, MostName, "volume_done.order.copy_to")
        ?? Unfit(order.Id, MostName, "volume_done.order.id") ?? Unfit(order.SourceId, MostName, "volume_done.order.source_id")
        ?? (done.Problem is { } problem && !CodeForm().IsMatch(problem.Code) ? "volume_done.problem.code must match [a-z0-9_]{1,64}." : null);

    private static string? Check(ConsoleChunk chunk) => chunk.Data.Length > MostConsoleBytes
        ? $"console.data has {chunk.Data.Length} bytes; at most {MostConsoleBytes} are taken."
        : Unfit(chunk.Error?.Code ?? "", MostName, "console.error.code");

    /// <summary>Words that people read on their terminals, and in a log's lines: short, and nothing that steers either.</summary>
    private static string? Unfit(string text, int most, string field) =>
        text.Length > most ? $"{field} has {text.Length} characters; at most {most} are taken."
        : text.Any(char.IsControl) ? $"{field} has control characters."
        : null;
}
