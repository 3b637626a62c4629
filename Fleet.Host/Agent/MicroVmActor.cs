using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;
using Serilog;
using Status = Akka.Actor.Status;

namespace Fleet.Host.Agent;

/// <summary>
/// One microVM under one epoch: owns its VMM and its folder. A shell around <see cref="MicroVmLife"/>: writes down, then
/// reports, then acts.
/// </summary>
#pragma warning disable CA1001 // PostStop is an actor's Dispose.
internal sealed class MicroVmActor : UntypedActor
#pragma warning restore CA1001
{
    private readonly MicroVmContext _context;
    private readonly LaunchRecord _record;
    private readonly bool _found;
    private readonly IVmmDriver? _driver;
    private readonly ILogger _log;
    private readonly MicroVmLife _life;
    private readonly CancellationTokenSource _launching = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private IVmm? _vmm;
    private ITimer? _bootTimer;

    /// <param name="found">The record was found on the disk: take over what an earlier agent started.</param>
    public MicroVmActor(MicroVmContext context, LaunchRecord record, bool found)
    {
        _context = context;
        _record = record;
        _found = found;
        _driver = context.Drivers.FirstOrDefault(driver => driver.Name == record.Driver);
        _log = context.Log.ForContext("VmId", record.Launch.VmId);
        var limit = TimeSpan.FromSeconds(record.Launch.Spec.BootTimeoutSeconds);
        _life = found && record.Report.State is HostVmState.Ended or HostVmState.Failed ? MicroVmLife.Over(record.Report) : new MicroVmLife(limit);
        if (!_life.HasVmm)
            _ended.SetResult();
    }

    /// <summary>Commands of the control plane, by way of the agent.</summary>
    public sealed record Stop(TimeSpan Grace) : INoSerializationVerificationNeeded;

    public sealed class Remove : INoSerializationVerificationNeeded
    {
        public static readonly Remove Instance = new();
    }

    public sealed record Input(ReadOnlyMemory<byte> Data) : INoSerializationVerificationNeeded;

    /// <summary>Tell the parent again how things are.</summary>
    public sealed class ReportAgain : INoSerializationVerificationNeeded
    {
        public static readonly ReportAgain Instance = new();
    }

    /// <summary>Asks for what a reader of the console needs.</summary>
    public sealed class GetConsole : INoSerializationVerificationNeeded
    {
        public static readonly GetConsole Instance = new();
    }

    /// <summary>The folder of the console log, and when nothing writes to it any more.</summary>
    public sealed record ConsoleSource(string Folder, Task Ended) : INoSerializationVerificationNeeded;

    private sealed record VmmLaunched(IVmm Vmm) : INoSerializationVerificationNeeded;

    private sealed record VmmGone(VmmEnd End) : INoSerializationVerificationNeeded;

    private sealed record GuestIsReady : INoSerializationVerificationNeeded;

    private sealed record BootTimeUp : INoSerializationVerificationNeeded;

    private sealed record FilesGone : INoSerializationVerificationNeeded;

    private sealed record LaunchGivenUp(string Code, string Message) : INoSerializationVerificationNeeded;

    private VmmLaunch Launch => new(
        _record.Launch.VmId, _record.Launch.Epoch, _record.Launch.Spec, _context.State.FolderOf(_record.Launch.VmId));

    protected override void PreStart()
    {
        if (!_life.HasVmm)
        {
            Carry([_life.Now()]);
            return;
        }

        if (_driver is null)
        {
            Self.Tell(new LaunchGivenUp("driver_unusable", $"This host's agent has no driver '{_record.Driver}'."));
            return;
        }

        // A found record keeps its place in the sequence of reports; a new one says at once that the launch is under way.
        if (!_found)
            Carry([_life.Now()], durable: true);
        _ = (_found ? AdoptAsync(_driver) : LaunchAsync(_driver)).PipeTo(Self);
    }

    protected override void PostStop()
    {
        // The agent ends or the microVM is gone; a VMM that still runs goes on without us.
        _bootTimer?.Dispose();
        _launching.Dispose();
        _ended.TrySetResult();
        if (_vmm is not null)
            _ = LetGoAsync(_vmm, _log);
    }

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case VmmLaunched launched:
                Own(launched.Vmm);
                Carry(_life.Launched());
                break;
            case LaunchGivenUp failed:
                _ended.TrySetResult();
                Carry(_life.LaunchFailed(failed.Code, failed.Message));
                break;
            case Status.Failure failure:
                _log.Error(failure.Cause, "An operation on {VmId} failed", _record.Launch.VmId);
                break;
            case GuestIsReady:
                _bootTimer?.Dispose();
                _bootTimer = null;
                break;
            case BootTimeUp:
                Carry(_life.BootTimedOut());
                break;
            case VmmGone gone:
                _bootTimer?.Dispose();
                _ended.TrySetResult();
                Carry(_life.VmmEnded(gone.End));
                break;
            case Stop stop:
                Carry(_life.Stop(stop.Grace));
                break;
            case Remove:
                Carry(_life.Remove());
                break;
            case FilesGone:
                Carry(_life.Deleted());
                Context.Stop(Self);
                break;
            case ReportAgain:
                Context.Parent.Tell(new HostAgentActor.Reported(_record.Report.Clone()));
                break;
            case Input input:
                if (_vmm is not null)
                    _ = WriteAsync(_vmm, input.Data, _log);
                break;
            case GetConsole:
                Sender.Tell(new ConsoleSource(Launch.Directory, _ended.Task));
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private void Own(IVmm vmm)
    {
        _vmm = vmm;
        _ = vmm.Completion.PipeTo(Self, success: end => new VmmGone(end));
        for (var i = 0; i < vmm.VcpuThreads.Count; i++)
            Context.ActorOf(Props.Create<VcpuActor>(i, vmm.Pid, vmm.VcpuThreads[i], _context.Clock), $"vcpu-{i}");
    }

    private void Carry(IReadOnlyList<MicroVmEffect> effects, bool durable = false)
    {
        foreach (var effect in effects)
        {
            switch (effect)
            {
                case MicroVmEffect.Report report:
                    Report(report, durable);
                    break;
                case MicroVmEffect.CancelLaunch:
                    _launching.Cancel();
                    break;
                case MicroVmEffect.StopVmm stop:
                    _ = StopAsync(_vmm!, stop.Grace, _log);
                    break;
                case MicroVmEffect.WatchBoot watch:
                    var self = Self;
                    _ = _vmm!.GuestReady.ContinueWith(
                        _ => self.Tell(new GuestIsReady()), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
                    _bootTimer = _context.Clock.CreateTimer(_ => self.Tell(new BootTimeUp()), null, watch.Limit, Timeout.InfiniteTimeSpan);
                    break;
                case MicroVmEffect.Delete:
                    _ = DeleteAsync().PipeTo(Self, success: () => new FilesGone());
                    break;
            }
        }
    }

    private void Report(MicroVmEffect.Report effect, bool durable)
    {
        var now = _context.Clock.GetUtcNow();
        // Rises within an epoch, over restarts of the agent too: time carries it where the last number was lost.
        var sequence = Math.Max((_record.Report?.Sequence ?? 0) + 1, (ulong)now.ToUnixTimeMilliseconds());
        _record.Report = new VmReport
        {
            VmId = _record.Launch.VmId,
            Epoch = _record.Launch.Epoch,
            Sequence = sequence,
            State = effect.State,
            Reason = effect.Reason,
            Exit = effect.Exit,
            Driver = _record.Driver,
            VmmPid = effect.State == HostVmState.Running ? _vmm?.Pid ?? 0 : 0,
            At = Timestamp.FromDateTimeOffset(now),
        };
        if (effect.State != HostVmState.Removed)
        {
            try
            {
                _context.State.Write(_record, durable);
            }
            catch (IOException failed)
            {
                // The report still goes out; a restarted agent would find the older one and look at the VMM itself.
                _log.Error(failed, "The record of {VmId} could not be written", _record.Launch.VmId);
                if (durable)
                {
                    // Nothing may run that a restarted agent could not find.
                    _launching.Cancel();
                }
            }
        }

        Context.Parent.Tell(new HostAgentActor.Reported(_record.Report.Clone()));
    }

    private async Task<object> LaunchAsync(IVmmDriver driver)
    {
        var launch = Launch;
        var token = _launching.Token;
        try
        {
            // Launches take turns: more at once than the machine has CPUs for only makes each of them slower.
            await _context.LaunchSlots.WaitAsync(token).ConfigureAwait(false);
            try
            {
                return new VmmLaunched(await driver.LaunchAsync(launch, token).ConfigureAwait(false));
            }
            finally
            {
                _context.LaunchSlots.Release();
            }
        }
        catch (LaunchFailedException failed)
        {
            return new LaunchGivenUp(failed.Code, failed.Message);
        }
        catch (OperationCanceledException) when (token.IsCancellationRequested)
        {
            return new LaunchGivenUp("launch_failed", "The launch was given up: it was stopped, or its record could not be written.");
        }
        catch (Exception fault) when (fault is not OutOfMemoryException)
        {
            _log.Error(fault, "Launching {VmId} failed", launch.VmId);
            return new LaunchGivenUp("launch_failed", $"The host could not start it: {fault.Message}");
        }
    }

    private async Task<object> AdoptAsync(IVmmDriver driver)
    {
        if (_record.BootId != _context.BootId)
            return new LaunchGivenUp("host_rebooted", "The host's machine was started anew; the microVM went with it.");
        try
        {
            var vmm = await driver.AdoptAsync(Launch, _launching.Token).ConfigureAwait(false);
            // An agent that was killed between its record and the VMM had promised a launch: this one keeps the promise.
            return vmm is null ? await LaunchAsync(driver).ConfigureAwait(false) : new VmmLaunched(vmm);
        }
        catch (Exception fault) when (fault is not OutOfMemoryException)
        {
            _log.Error(fault, "Taking over {VmId} failed", _record.Launch.VmId);
            return new LaunchGivenUp("vmm_failed", $"The restarted agent could not take it over: {fault.Message}");
        }
    }

    private async Task DeleteAsync()
    {
        var vmm = _vmm;
        _vmm = null;
        if (vmm is not null)
            await vmm.DisposeAsync().ConfigureAwait(false);
        await Task.Run(() => _context.State.Remove(_record.Launch.VmId)).ConfigureAwait(false);
    }

    private static async Task WriteAsync(IVmm vmm, ReadOnlyMemory<byte> data, ILogger log)
    {
        try
        {
            await vmm.WriteConsoleAsync(data, CancellationToken.None).ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is IOException or ObjectDisposedException)
        {
            log.Warning(failed, "Console input was lost");
        }
    }

    private static async Task StopAsync(IVmm vmm, TimeSpan grace, ILogger log)
    {
        try
        {
            await vmm.StopAsync(grace).ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is IOException or InvalidOperationException or TimeoutException)
        {
            log.Error(failed, "Stopping the VMM failed; the control plane will ask again");
        }
    }

    private static async Task LetGoAsync(IVmm vmm, ILogger log)
    {
        try
        {
            await vmm.DisposeAsync().ConfigureAwait(false);
        }
        catch (IOException failed)
        {
            log.Warning(failed, "Letting go of a VMM failed; it runs on");
        }
    }
}

/// <summary>What every microVM of an agent shares.</summary>
internal sealed record MicroVmContext(
    StateDirectory State, IReadOnlyList<IVmmDriver> Drivers, string BootId, SemaphoreSlim LaunchSlots, TimeProvider Clock, ILogger Log)
{
    /// <summary>A record for a new launch; <c>auto</c> is settled here and for good.</summary>
    public LaunchRecord NewRecord(LaunchVm launch, string autoDriver) => new()
    {
        Launch = launch,
        Driver = launch.Spec.Driver is "" or "auto" ? autoDriver : launch.Spec.Driver,
        BootId = BootId,
    };

    public static string CurrentBoot() => ProcessIdentity.CurrentBoot();
}
