using Fleet.Host.Consoles;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers;

/// <summary>A VMM that was already gone when an agent came to take it over.</summary>
internal sealed class EndedVmm : IVmm
{
    private EndedVmm(VmmEnd end) => Completion = Task.FromResult(end);

    public int Pid => 0;

    public Task<VmmEnd> Completion { get; }

    public Task GuestReady { get; } = Task.FromCanceled(new CancellationToken(canceled: true));

    public Task<IReadOnlyList<int>> VcpuThreads { get; } = Task.FromResult<IReadOnlyList<int>>([]);

    /// <summary>Says from a microVM's directory how its VMM ended; null when none was ever started there.</summary>
    /// <param name="lastWords">What the VMM itself left behind of its end, if it does such a thing.</param>
    public static EndedVmm? Of(VmmLaunch launch, VmmAbsence absence, DriverOptions options, Func<VmmEnd?>? lastWords = null)
    {
        if (absence == VmmAbsence.NeverStarted) return null;
        var end = Judge(launch, absence, lastWords);
        options.Log.Information("VMM of {Vm} had ended: {Code}: {Message}", launch.VmId, end.Reason.Code, end.Reason.Message);
        return new EndedVmm(end);
    }

    /// <summary>One that was saved.</summary>
    public static EndedVmm OfSaved() => new(VmmEnd.OfSaved);

    public Task StopAsync(TimeSpan grace) => Task.CompletedTask;

    public VmmUse? ReadUse() => null;

    public Task<LimiterReading?> ReadLimiterAsync(string name, CancellationToken cancellation) => Task.FromResult<LimiterReading?>(null);

    public Task SetLimiterAsync(string name, RateLimit? limit, CancellationToken cancellation) => Task.CompletedTask;

    public Task<bool> HoldLeaseAsync(VmmLease lease, CancellationToken cancellation) => Task.FromResult(true);

    public ValueTask WriteConsoleAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation) => ValueTask.CompletedTask;

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private static VmmEnd Judge(VmmLaunch launch, VmmAbsence absence, Func<VmmEnd?>? lastWords)
    {
        var status = new StatusLog(Path.Combine(launch.Directory, VmmFiles.Status));
        try
        {
            status.Poll();
        }
        catch (IOException e)
        {
            return Failed("vmm_failed", $"The VMM is gone and its status can't be read: {e.Message}");
        }
        if (status.Exit is { } exit)
        {
            return new VmmEnd(true, exit, new Reason { Code = "command_exited", Message = $"The command ended with status {exit.Status}." });
        }
        if (absence == VmmAbsence.MachineRebooted) return Failed("host_rebooted", "The host's machine was started anew; the microVM went with it.");
        if (status.Error is { } error) return Failed("launch_failed", $"fleet-init could not go on: {error.Code}: {error.Message}");
        return lastWords?.Invoke() ?? Failed("vmm_killed", "The VMM ended without a word while the agent was away.");
    }

    private static VmmEnd Failed(string code, string message) =>
        new(false, null, new Reason { Code = code, Message = message });
}
