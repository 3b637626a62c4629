using System.Text.Json;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers;

/// <summary>What fleet-vmm wrote down of its own end: <c>{"code", "reason", "message"}</c>.</summary>
/// <param name="Code">The reason as docs/api.md names it.</param>
/// <param name="InOrder">The guest itself ended it.</param>
/// <param name="GuestEnded">The guest had run.</param>
internal sealed record FleetVmmExit(string Code, string Message, bool InOrder, bool GuestEnded)
{
    private const int MaxBytes = 64 * 1024;

    private const int MaxMessage = 500;

    /// <summary>Reads it from a microVM's directory; null when fleet-vmm left none, as one that was killed does.</summary>
    public static FleetVmmExit? Read(string directory)
    {
        string path = Path.Combine(directory, VmmFiles.Exit);
        var file = new FileInfo(path);
        if (!file.Exists || file.Length is 0 or > MaxBytes) return null;
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            return json.RootElement.TryGetProperty("reason", out var reason) && json.RootElement.TryGetProperty("message", out var message)
                ? Of(reason.GetString() ?? "", message.GetString() ?? "")
                : null;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            return null;
        }
    }

    public VmmEnd AsEnd() => new(InOrder, null, new Reason { Code = Code, Message = Message });

    private static FleetVmmExit Of(string reason, string message)
    {
        if (message.Length > MaxMessage) message = message[..MaxMessage];
        return reason switch
        {
            "guest_shutdown" => new(reason, message, InOrder: true, GuestEnded: true),
            "guest_crashed" or "guest_halted" or "lease_over" => new(reason, message, InOrder: false, GuestEnded: true),
            "kernel_missing" or "kernel_invalid" or "initrd_missing" or "snapshot_invalid" => new(reason, message, InOrder: false, GuestEnded: false),
            // What is wrong with what goes along with the kernel.
            "initrd_invalid" or "boot_args_invalid" => new("kernel_invalid", message, InOrder: false, GuestEnded: false),
            "kvm_unavailable" => new("driver_unusable", message, InOrder: false, GuestEnded: false),
            "out_of_memory" => new("launch_failed", message, InOrder: false, GuestEnded: false),
            // By a signal, and not ours: a stop of ours is known without asking.
            "stopped" => new("vmm_killed", message, InOrder: false, GuestEnded: false),
            _ => new("vmm_failed", message, InOrder: false, GuestEnded: false),
        };
    }
}
