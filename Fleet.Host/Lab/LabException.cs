namespace Fleet.Host.Lab;

/// <summary>The lab can't do what was asked. What the call had started is gone again.</summary>
public sealed class LabException(string code, string message, Exception? inner = null) : Exception(message, inner)
{
    /// <summary>
    /// Stable: <c>invalid_lab_option</c>, <c>qemu_missing</c>, <c>no_memory</c>, <c>node_not_found</c>,
    /// <c>node_off</c>, <c>node_stuck</c>, <c>boot_failed</c>, <c>lab_busy</c>, <c>command_timeout</c>; of <c>fleet lab up</c> also those of a link.
    /// </summary>
    public string Code { get; } = code;
}
