using System.Text;
using System.Text.Json;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>From a request to the microVM and back: paths, bodies, statuses and sentences, as Firecracker's, and our own under <c>/fleet</c>.</summary>
internal sealed class ApiRouter(Microvm microvm, VmmLog log, VmmMetrics metrics, TimeProvider clock, string version)
{
    /// <summary>Bodies may be long and may hold secrets in boot arguments' tails; a log line needs the beginning.</summary>
    private const int LoggedBody = 512;

    private const string LeasePath = "/fleet/lease";

    /// <summary>What Firecracker has and this VMM has not (yet), so that a caller learns that it is not his typing.</summary>
    private static readonly string[] UnsupportedPaths =
        ["hotplug", "pmem"];

    /// <summary>Carries out one request; whatever goes wrong is an answer.</summary>
    public ApiAnswer Handle(HttpMethod method, string target, ReadOnlySpan<byte> body)
    {
        var began = clock.GetTimestamp();
        LogRequest(method, target, body);
        ApiAnswer answer;
        try
        {
            answer = Route(method, target, body);
        }
        catch (JsonFaultException fault)
        {
            answer = Refuse($"An error occurred when deserializing the json body of a request: {fault.Message}.");
        }
        catch (ApiFaultException fault)
        {
            answer = Refuse(fault.Message);
        }
        catch (MetadataTooLargeException fault)
        {
            answer = Refuse(fault.Message, status: 413);
        }
        catch (MachineException fault)
        {
            answer = Refuse($"Internal VMM error: {fault.Message}");
        }
        catch (Exception bug) when (bug is not OutOfMemoryException)
        {
            // A fault of ours in one request is no reason to take the guest down with it.
            log.Error($"Unexpected failure of {Name(method)} {target}: {bug}");
            answer = Refuse("Internal VMM error: unexpected failure, see the log of the VMM.");
        }

        log.Debug($"Total previous API call duration: {clock.GetElapsedTime(began).Ticks / TimeSpan.TicksPerMicrosecond} us.");
        return answer;
    }

    private ApiAnswer Route(HttpMethod method, string target, ReadOnlySpan<byte> body)
    {
        var path = target.Trim('/');
        var first = path.Split('/', 2)[0];
        switch (method)
        {
            case HttpMethod.Get when !body.IsEmpty:
                throw new ApiFaultException("GET request cannot have a body.");
            case HttpMethod.Put when body.IsEmpty:
                throw new ApiFaultException("Empty PUT request.");
            case HttpMethod.Patch when body.IsEmpty:
                throw new ApiFaultException("Empty PATCH request.");
            case HttpMethod.Delete when !body.IsEmpty:
                throw new ApiFaultException("Empty Delete request.");
            default:
                break;
        }

        switch (method, path)
        {
            case (HttpMethod.Get, ""):
                metrics.Count(Counter.GetInstanceInfo);
                return ApiAnswer.Ok(JsonText.Write(WriteInstanceInfo));
            case (HttpMethod.Get, "version"):
                metrics.Count(Counter.GetVmmVersion);
                return ApiAnswer.Ok(JsonText.Write(WriteVersion));
            case (HttpMethod.Get, "vm/config"):
                metrics.Count(Counter.GetVmConfig);
                return ApiAnswer.Ok(JsonText.Write(microvm.WriteConfiguration));
            case (HttpMethod.Get, "machine-config"):
                metrics.Count(Counter.GetMachineConfig);
                return ApiAnswer.Ok(JsonText.Write(microvm.MachineConfig.Write));
            case (HttpMethod.Get, "fleet/vcpus"):
                metrics.Count(Counter.GetVcpus);
                return ApiAnswer.Ok(WriteVcpus(microvm.VcpuThreads));
            case (HttpMethod.Get, "fleet/limiters"):
                metrics.Count(Counter.GetLimiters);
                return ApiAnswer.Ok(JsonText.Write(microvm.WriteLimiters));
            case (HttpMethod.Get, "fleet/lease"):
                metrics.Count(Counter.GetLease);
                return ApiAnswer.Ok(JsonText.Write(json => LeaseBody.Write(json, microvm.Lease)));
            case (HttpMethod.Put, "fleet/lease"):
                return Change(Counter.PutLease, Counter.PutLeaseFails, body, LeaseBody.Read, microvm.ExtendLease);
            case (HttpMethod.Put, "actions"):
                return Change(Counter.PutActions, Counter.PutActionsFails, body, SingleFieldBody.ReadAction, Act);
            case (HttpMethod.Put, "boot-source"):
                return Change(Counter.PutBootSource, Counter.PutBootSourceFails, body, BootSource.Read, microvm.SetBootSource);
            case (HttpMethod.Put, "logger"):
                return Change(Counter.PutLogger, Counter.PutLoggerFails, body, LoggerConfig.Read, microvm.ConfigureLogger);
            case (HttpMethod.Put, "metrics"):
                return Change(Counter.PutMetrics, Counter.PutMetricsFails, body, MetricsConfig.Read, microvm.ConfigureMetrics);
            case (HttpMethod.Put, "machine-config"):
                return Change(Counter.PutMachineConfig, Counter.PutMachineConfigFails, body, static (ref JsonBody json) => MachineConfigUpdate.Read(ref json, complete: true), microvm.ReplaceMachineConfig);
            case (HttpMethod.Put, "fleet/status-port"):
                return Change(Counter.PutStatusPort, Counter.PutStatusPortFails, body, SingleFieldBody.ReadStatusPort, microvm.SetStatusPort);
            case (HttpMethod.Put, "serial"):
                return Change(Counter.PutSerial, Counter.PutSerialFails, body, SerialConfig.Read, microvm.SetSerial);
            case (HttpMethod.Put, "entropy"):
                return Change(Counter.PutEntropy, Counter.PutEntropyFails, body, EntropyConfig.Read, limits => microvm.DevicesBeforeStart.Entropy = limits);
            case (HttpMethod.Get, "balloon"):
                metrics.Count(Counter.GetBalloon);
                return ApiAnswer.Ok(JsonText.Write(json => BalloonConfig.Write(json, microvm.Balloon)));
            case (HttpMethod.Get, "balloon/statistics"):
                metrics.Count(Counter.GetBalloon);
                var device = microvm.RunningDevices.BalloonWithStatistics();
                return ApiAnswer.Ok(JsonText.Write(json => BalloonConfig.WriteStatistics(json, device)));
            case (HttpMethod.Put, "balloon"):
                return Change(Counter.PutBalloon, Counter.PutBalloonFails, body, BalloonConfig.Read, balloon => microvm.DevicesBeforeStart.Balloon = balloon);
            case (HttpMethod.Patch, "balloon"):
                return Change(Counter.PatchBalloon, Counter.PatchBalloonFails, body, BalloonConfig.ReadAmount, microvm.UpdateBalloon);
            case (HttpMethod.Patch, "balloon/statistics"):
                return Change(Counter.PatchBalloon, Counter.PatchBalloonFails, body, BalloonConfig.ReadInterval, seconds => microvm.RunningDevices.UpdateBalloonStatistics(seconds));
            case (_, "balloon/hinting/start" or "balloon/hinting/status" or "balloon/hinting/stop"):
                throw new ApiFaultException($"/balloon/hinting is not supported by fleet-vmm {version}.");
            case (HttpMethod.Put, "vsock"):
                return Change(Counter.PutVsock, Counter.PutVsockFails, body, VsockConfig.Read, vsock => microvm.DevicesBeforeStart.SetVsock(vsock));
            case (HttpMethod.Get, "mmds"):
                metrics.Count(Counter.GetMetadata);
                return ApiAnswer.Ok(microvm.Metadata.Get(microvm.State != MicrovmState.NotStarted));
            case (HttpMethod.Put, "mmds"):
                return Change(Counter.PutMetadata, Counter.PutMetadataFails, body, MetadataApi.Read, microvm.Metadata.Put);
            case (HttpMethod.Patch, "mmds"):
                return Change(Counter.PatchMetadata, Counter.PatchMetadataFails, body, MetadataApi.Read, microvm.Metadata.Patch);
            case (HttpMethod.Put, "mmds/config"):
                return Change(Counter.PutMetadata, Counter.PutMetadataFails, body, MetadataApi.ReadSettings, microvm.ConfigureMetadata);
            case (HttpMethod.Patch, "entropy"):
                return Change(Counter.PatchEntropy, Counter.PatchEntropyFails, body, EntropyConfig.Read, limits => microvm.RunningDevices.UpdateEntropy(limits));
            case (HttpMethod.Put, "cpu-config"):
                return Change(Counter.PutCpuConfig, Counter.PutCpuConfigFails, body, CpuTemplateBody.Read, microvm.SetCpuTemplate);
            case (HttpMethod.Put, "snapshot/create"):
                return Change(Counter.PutSnapshotCreate, Counter.PutSnapshotCreateFails, body, SnapshotCreation.Read, microvm.CreateSnapshot);
            case (HttpMethod.Put, "snapshot/load"):
                return Change(Counter.PutSnapshotLoad, Counter.PutSnapshotLoadFails, body, SnapshotLoad.Read, microvm.LoadSnapshot);
            case (HttpMethod.Patch, "machine-config"):
                return Change(Counter.PatchMachineConfig, Counter.PatchMachineConfigFails, body, static (ref JsonBody json) => MachineConfigUpdate.Read(ref json, complete: false), PatchMachineConfig);
            case (HttpMethod.Patch, "vm"):
                return Change(Counter.PatchVm, Counter.PatchVmFails, body, SingleFieldBody.ReadWantsPause, PauseOrResume);
            case (HttpMethod.Put, _) when first == "drives":
                return Change(Counter.PutDrive, Counter.PutDriveFails, body, DriveConfig.Read, drive => PutDrive(path, drive));
            case (HttpMethod.Patch, _) when first == "drives":
                return Change(Counter.PatchDrive, Counter.PatchDriveFails, body, DriveConfig.ReadUpdate, update => PatchDrive(path, update));
            case (HttpMethod.Put, _) when first == "network-interfaces":
                return Change(Counter.PutNetwork, Counter.PutNetworkFails, body, NetworkConfig.Read, network => PutNetwork(path, network));
            case (HttpMethod.Patch, _) when first == "network-interfaces":
                return Change(Counter.PatchNetwork, Counter.PatchNetworkFails, body, NetworkConfig.ReadUpdate, update => PatchNetwork(path, update));
            default:
                throw new ApiFaultException(Array.IndexOf(UnsupportedPaths, first) >= 0
                    ? $"/{first} is not supported by fleet-vmm {version}."
                    : $"Invalid request method and/or path: {Name(method)} {first}.");
        }
    }

    private delegate T BodyReader<out T>(ref JsonBody body);

    // The whole body is read, to its end, before anything is changed.
    private ApiAnswer Change<T>(Counter count, Counter fails, ReadOnlySpan<byte> text, BodyReader<T> read, Action<T> apply)
    {
        metrics.Count(count);
        var done = false;
        try
        {
            var body = new JsonBody(text);
            body.Begin();
            var wanted = read(ref body);
            body.End();
            apply(wanted);
            done = true;
            return ApiAnswer.Done;
        }
        finally
        {
            if (!done)
            {
                metrics.Count(fails);
            }
        }
    }

    private void Act(ApiAction action)
    {
        switch (action)
        {
            case ApiAction.InstanceStart: microvm.Start(); break;
            case ApiAction.SendCtrlAltDel: microvm.SendCtrlAltDel(); break;
            default: microvm.FlushMetrics(); break;
        }
    }

    private void PauseOrResume(bool pauses)
    {
        if (pauses)
        {
            microvm.Pause();
        }
        else
        {
            microvm.Resume();
        }
    }

    private void PatchMachineConfig(MachineConfigUpdate update)
    {
        if (update.IsEmpty)
        {
            throw new ApiFaultException("Empty PATCH request.");
        }

        microvm.UpdateMachineConfig(update);
    }

    private void PutDrive(string path, DriveConfig drive)
    {
        ResourceId.Check(ResourceId.In(path), drive.Id);
        microvm.DevicesBeforeStart.SetDrive(drive);
    }

    private void PatchDrive(string path, (string Id, string? File, LimiterSettings Limits) update)
    {
        ResourceId.Check(ResourceId.In(path), update.Id);
        microvm.RunningDevices.UpdateDrive(update.Id, update.File, update.Limits);
    }

    private void PutNetwork(string path, NetworkConfig network)
    {
        ResourceId.Check(ResourceId.In(path), network.Id, tellBoth: true);
        microvm.DevicesBeforeStart.SetNetwork(network);
    }

    private void PatchNetwork(string path, (string Id, LimiterSettings Received, LimiterSettings Sent) update)
    {
        ResourceId.Check(ResourceId.In(path), update.Id, tellBoth: true);
        microvm.RunningDevices.UpdateNetwork(update.Id, update.Received, update.Sent);
    }

    private void WriteInstanceInfo(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("id", microvm.Id);
        json.WriteString("state", microvm.State switch { MicrovmState.NotStarted => "Not started", MicrovmState.Running => "Running", _ => "Paused" });
        json.WriteString("vmm_version", version);
        json.WriteString("app_name", "fleet-vmm");
        json.WriteEndObject();
    }

    private void WriteVersion(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("firecracker_version", version);
        json.WriteEndObject();
    }

    private static byte[] WriteVcpus(IReadOnlyList<int> threads) => JsonText.Write(json =>
    {
        json.WriteStartObject();
        json.WriteStartArray("threads");
        foreach (var thread in threads)
        {
            json.WriteNumberValue(thread);
        }

        json.WriteEndArray();
        json.WriteEndObject();
    });

    private ApiAnswer Refuse(string message, int status = 400)
    {
        log.Error($"Received Error. Status code: {status}. Message: {message}");
        return ApiAnswer.Fault(message, status);
    }

    private void LogRequest(HttpMethod method, string target, ReadOnlySpan<byte> body)
    {
        var verb = method switch { HttpMethod.Get => "Get", HttpMethod.Put => "Put", HttpMethod.Patch => "Patch", _ => "Delete" };
        var text = body.IsEmpty || target.TrimStart('/').StartsWith("mmds", StringComparison.Ordinal) ? "" : $" with body \"{Encoding.UTF8.GetString(body[..Math.Min(body.Length, LoggedBody)])}\"";
        var line = $"The API server received a {verb} request on \"{target}\"{text}.";
        if (target == LeasePath)
        {
            // Every other second.
            log.Debug(line);
        }
        else
        {
            log.Info(line);
        }
    }

    private static string Name(HttpMethod method) => method switch
    {
        HttpMethod.Get => "GET",
        HttpMethod.Put => "PUT",
        HttpMethod.Patch => "PATCH",
        _ => "DELETE",
    };
}
