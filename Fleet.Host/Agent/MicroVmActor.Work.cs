using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Host.Snapshots;
using Fleet.Host.Volumes;

namespace Fleet.Host.Agent;

/// <summary>What a microVM's actor has done outside its mailbox. None of these tasks faults, and none touches the actor's state.</summary>
internal sealed partial class MicroVmActor
{
    private static readonly TimeSpan FirstAdoptPause = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LongestAdoptPause = TimeSpan.FromSeconds(30);

    private async Task<object> StartAsync(IActorRef self)
    {
        if (_unwritten is { } unwritten)
            return new LaunchGivenUp("launch_failed", unwritten);
        if (_driver is not { } driver)
            return NoDriver();
        var launch = Launch;
        var given = _launching.Token;
        try
        {
            if (_record.Launch.Ticket is { } ticket)
            {
                using var fetching = CancellationTokenSource.CreateLinkedTokenSource(given, _context.Ending);
                await (_context.Fetcher ?? throw new LaunchFailedException(SnapshotFetcher.Code, "This agent fetches no snapshots."))
                    .FetchAsync(launch, ticket, fetching.Token).ConfigureAwait(false);
            }

            var slots = _context.LaunchSlots(driver.Name);
            // Let go when the VMM holds them itself, or when there will be none.
            using var volumes = await VolumesAsync(given).ConfigureAwait(false);
            launch = launch with { VolumeDisks = volumes?.Disks ?? [] };
            // What has not begun when the agent ends is left to the next agent; what has begun is finished.
            using (var waiting = CancellationTokenSource.CreateLinkedTokenSource(given, _context.Ending))
            {
                launch = launch with { Image = await ImageAsync(self, waiting.Token).ConfigureAwait(false) };
                await slots.WaitAsync(waiting.Token).ConfigureAwait(false);
            }

            try
            {
                _context.Ending.ThrowIfCancellationRequested();
                await JoinNetworkAsync(launch, given).ConfigureAwait(false);
                return await HandOverAsync(await driver.LaunchAsync(launch, given).ConfigureAwait(false)).ConfigureAwait(false);
            }
            finally
            {
                slots.Release();
            }
        }
        catch (LaunchFailedException failed)
        {
            return new LaunchGivenUp(failed.Code, failed.Message);
        }
        catch (OperationCanceledException) when (given.IsCancellationRequested)
        {
            return new LaunchGivenUp("launch_failed", "The launch was given up.");
        }
        catch (OperationCanceledException) when (_context.Ending.IsCancellationRequested)
        {
            return new LeftToTheNext();
        }
        catch (Exception fault) when (fault is not OutOfMemoryException)
        {
            _log.Error(fault, "Launching {VmId} failed", launch.VmId);
            return new LaunchGivenUp("launch_failed", $"The host could not start it: {fault.Message}");
        }
    }

    /// <summary>The OCI image to boot, pulled if need be: before the launch's turn, which others must not wait for.</summary>
    private async Task<LaunchImage?> ImageAsync(IActorRef self, CancellationToken cancellation)
    {
        // One that goes on has its image in its folder.
        if (_record.Launch.SnapshotEpoch > 0 || _record.Launch.Spec.Image is not { Length: > 0 } name)
            return null;
        var store = _context.Images ?? throw new LaunchFailedException("driver_unusable", "This host runs no images.");
        if (store.Find(name) is not { } image)
        {
            self.Tell(new PullBegan(name));
            image = await store.GetAsync(name, _record.Launch.Spec.Tenant, progress: null, again: false, cancellation).ConfigureAwait(false);
        }

        return new LaunchImage(store.RootOf(image), image.Config);
    }

    private async Task<GivenVolumes?> VolumesAsync(CancellationToken given)
    {
        if (_record.Launch.Spec.Volumes.Count == 0)
            return null;
        var store = _context.Volumes ?? throw new LaunchFailedException("driver_unusable", "This host has no volumes.");
        using var waiting = CancellationTokenSource.CreateLinkedTokenSource(given, _context.Ending);
        return await store.GiveAsync(_record.Launch, waiting.Token).ConfigureAwait(false);
    }

    /// <summary>
    /// Until it is certain what became of the VMM: one that may still run is never given up, or two copies of the microVM
    /// could run one day.
    /// </summary>
    private async Task<object> AdoptAsync(Task earlier)
    {
        await earlier.ConfigureAwait(false);
        // One that was saved outlives the machine's end.
        if (_record.BootId != _context.BootId && !IsSaved)
            return new LaunchGivenUp("host_rebooted", "The host's machine was started anew; the microVM went with it.");
        var launch = Launch;
        var told = "";
        for (var pause = FirstAdoptPause; ; pause = pause * 2 < LongestAdoptPause ? pause * 2 : LongestAdoptPause)
        {
            try
            {
                try
                {
                    // A VMM of a driver that this agent has not may run all the same: it is not called failed, but waits for an agent that has it.
                    var driver = _driver ?? throw new InvalidOperationException(NoDriver().Message);
                    return await driver.AdoptAsync(launch, _context.Ending).ConfigureAwait(false) is { } vmm
                        ? await HandOverAsync(vmm).ConfigureAwait(false)
                        : new VmmNeverWas();
                }
                catch (Exception fault) when (fault is not OutOfMemoryException && !_context.Ending.IsCancellationRequested)
                {
                    if (fault.Message != told)
                        _log.Error(fault, "{VmId} can't be taken over; its VMM may still run. Trying again. See vmm.pid in {Folder}", launch.VmId, launch.Directory);
                    told = fault.Message;
                }

                await Task.Delay(pause, _context.Clock, _context.Ending).ConfigureAwait(false);
            }
            catch (Exception ended) when (ended is not OutOfMemoryException && _context.Ending.IsCancellationRequested)
            {
                return new LeftToTheNext();
            }
        }
    }

    private async Task<object> HandOverAsync(IVmm vmm)
    {
        if (_slot.TryPut(vmm))
            return new VmmLaunched(vmm);
        await LetGoAsync(vmm).ConfigureAwait(false);
        return new LeftToTheNext();
    }

    private LaunchGivenUp NoDriver() => new("driver_unusable", _record.Driver.Length == 0
        ? "No driver of this host boots a stock kernel, so that auto has nothing to pick; fleet doctor explains."
        : $"This host's agent has no driver '{_record.Driver}'.");

    private async Task<object> DeleteAsync(Task guestsEnd)
    {
        try
        {
            await guestsEnd.ConfigureAwait(false);
            if (_slot.Close() is { } vmm)
                await vmm.DisposeAsync().ConfigureAwait(false);
            if (_record.Network is not null)
                await _context.Networks.AttachAsync(CancellationToken.None).ConfigureAwait(false);
            await Task.Run(() => _context.State.Remove(_record.Launch.VmId)).ConfigureAwait(false);
            return new FilesGone(null);
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            return new FilesGone(failed);
        }
    }

    private async Task WriteAsync(IVmm vmm, ReadOnlyMemory<byte> data)
    {
        try
        {
            await vmm.WriteConsoleAsync(data, _context.Ending).ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            _log.Warning(failed, "Console input was lost");
        }
    }

    private async Task StopAsync(IVmm vmm, TimeSpan grace)
    {
        try
        {
            await vmm.StopAsync(grace).ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            _log.Error(failed, "Stopping the VMM failed; it is tried again when the control plane asks again");
        }
    }

    private bool IsSaved => File.Exists(Path.Combine(Launch.Directory, SnapshotFiles.RecordName(_record.Launch.Epoch)));

    private async Task<object> SuspendAsync(IVmm vmm, string forHost, uint forEnrolment)
    {
        try
        {
            await vmm.SuspendAsync(forHost, forEnrolment).ConfigureAwait(false);
            return new LeftToTheNext();
        }
        catch (SnapshotFailedException failed)
        {
            return new VmmNotSaved(failed.Message);
        }
        catch (Exception fault) when (fault is not OutOfMemoryException)
        {
            _log.Error(fault, "Saving {VmId} failed", _record.Launch.VmId);
            return new VmmNotSaved($"The host could not save it: {fault.Message}");
        }
    }

    private async Task LetGoAsync(IVmm vmm)
    {
        try
        {
            await vmm.DisposeAsync().ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            _log.Warning(failed, "Letting go of a VMM failed; it runs on");
        }
    }
}
