using System.Text;
using System.Text.Json;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Metadata;

namespace Fleet.Vmm.Api;

/// <summary>From a request to the microVM and back: paths, bodies, statuses and sentences, as Firecracker's, and our own under <c>/fleet</c>.</summary>
internal sealed class ApiRouter(Microvm microvm, VmmLog log, VmmMetrics metrics, TimeProvider clock, string version)
{
    /// <summary>Bodies may be long and may hold secrets in boot arguments' tails; a log line needs the beginning.</summary>
    private const int LoggedBody = 512;

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
            case (HttpMethod.Put, "actions"):
                return Change(Counter.PutActions, Counter.PutActionsFails, body, PutAction);
            case (HttpMethod.Put, "boot-source"):
                return Change(Counter.PutBootSource, Counter.PutBootSourceFails, body, PutBootSource);
            case (HttpMethod.Put, "logger"):
                return Change(Counter.PutLogger, Counter.PutLoggerFails, body, PutLogger);
            case (HttpMethod.Put, "metrics"):
                return Change(Counter.PutMetrics, Counter.PutMetricsFails, body, PutMetrics);
            case (HttpMethod.Put, "machine-config"):
                return Change(Counter.PutMachineConfig, Counter.PutMachineConfigFails, body, PutMachineConfig);
            case (HttpMethod.Put, "fleet/status-port"):
                return Change(Counter.PutStatusPort, Counter.PutStatusPortFails, body, PutStatusPort);
            case (HttpMethod.Put, "serial"):
                return Change(Counter.PutSerial, Counter.PutSerialFails, body, PutSerial);
            case (HttpMethod.Put, "entropy"):
                return Change(Counter.PutEntropy, Counter.PutEntropyFails, body, PutEntropy);
            case (HttpMethod.Get, "balloon"):
                metrics.Count(Counter.GetBalloon);
                return ApiAnswer.Ok(JsonText.Write(json => BalloonConfig.Write(json, microvm.Balloon)));
            case (HttpMethod.Get, "balloon/statistics"):
                metrics.Count(Counter.GetBalloon);
                var device = microvm.RunningDevices.BalloonWithStatistics();
                return ApiAnswer.Ok(JsonText.Write(json => BalloonConfig.WriteStatistics(json, device)));
            case (HttpMethod.Put, "balloon"):
                return Change(Counter.PutBalloon, Counter.PutBalloonFails, body, PutBalloon);
            case (HttpMethod.Patch, "balloon"):
                return Change(Counter.PatchBalloon, Counter.PatchBalloonFails, body, PatchBalloon);
            case (HttpMethod.Patch, "balloon/statistics"):
                return Change(Counter.PatchBalloon, Counter.PatchBalloonFails, body, PatchBalloonStatistics);
            case (_, "balloon/hinting/start" or "balloon/hinting/status" or "balloon/hinting/stop"):
                throw new ApiFaultException($"/balloon/hinting is not supported by fleet-vmm {version}.");
            case (HttpMethod.Put, "vsock"):
                return Change(Counter.PutVsock, Counter.PutVsockFails, body, PutVsock);
            case (HttpMethod.Get, "mmds"):
                metrics.Count(Counter.GetMetadata);
                return ApiAnswer.Ok(microvm.Metadata.Get(microvm.State != MicrovmState.NotStarted));
            case (HttpMethod.Put, "mmds"):
                return Change(Counter.PutMetadata, Counter.PutMetadataFails, body, (ref JsonBody document) => microvm.Metadata.Put(ReadMetadata(ref document)));
            case (HttpMethod.Patch, "mmds"):
                return Change(Counter.PatchMetadata, Counter.PatchMetadataFails, body, (ref JsonBody patch) => microvm.Metadata.Patch(ReadMetadata(ref patch)));
            case (HttpMethod.Put, "mmds/config"):
                return Change(Counter.PutMetadata, Counter.PutMetadataFails, body, PutMetadataConfig);
            case (HttpMethod.Patch, "entropy"):
                return Change(Counter.PatchEntropy, Counter.PatchEntropyFails, body, PatchEntropy);
            case (HttpMethod.Put, "cpu-config"):
                return Change(Counter.PutCpuConfig, Counter.PutCpuConfigFails, body, PutCpuConfig);
            case (HttpMethod.Put, "snapshot/create"):
                return Change(Counter.PutSnapshotCreate, Counter.PutSnapshotCreateFails, body, PutSnapshotCreate);
            case (HttpMethod.Put, "snapshot/load"):
                return Change(Counter.PutSnapshotLoad, Counter.PutSnapshotLoadFails, body, PutSnapshotLoad);
            case (HttpMethod.Patch, "machine-config"):
                return Change(Counter.PatchMachineConfig, Counter.PatchMachineConfigFails, body, PatchMachineConfig);
            case (HttpMethod.Patch, "vm"):
                return Change(Counter.PatchVm, Counter.PatchVmFails, body, PatchVm);
            case (HttpMethod.Put, _) when first == "drives":
                return Change(Counter.PutDrive, Counter.PutDriveFails, body, (ref JsonBody drive) => PutDrive(path, ref drive));
            case (HttpMethod.Patch, _) when first == "drives":
                return Change(Counter.PatchDrive, Counter.PatchDriveFails, body, (ref JsonBody drive) => PatchDrive(path, ref drive));
            case (HttpMethod.Put, _) when first == "network-interfaces":
                return Change(Counter.PutNetwork, Counter.PutNetworkFails, body, (ref JsonBody network) => PutNetwork(path, ref network));
            case (HttpMethod.Patch, _) when first == "network-interfaces":
                return Change(Counter.PatchNetwork, Counter.PatchNetworkFails, body, (ref JsonBody network) => PatchNetwork(path, ref network));
            default:
                throw new ApiFaultException(Array.IndexOf(UnsupportedPaths, first) >= 0
                    ? $"/{first} is not supported by fleet-vmm {version}."
                    : $"Invalid request method and/or path: {Name(method)} {first}.");
        }
    }

    private delegate void BodyHandler(ref JsonBody body);

    private ApiAnswer Change(Counter count, Counter fails, ReadOnlySpan<byte> text, BodyHandler handler)
    {
        metrics.Count(count);
        var done = false;
        try
        {
            var body = new JsonBody(text);
            body.Begin();
            handler(ref body);
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

    // Each reads the whole body, to its end, before anything is changed.
    private void PutAction(ref JsonBody body)
    {
        var action = SingleFieldBody.ReadAction(ref body);
        body.End();
        switch (action)
        {
            case ApiAction.InstanceStart: microvm.Start(); break;
            case ApiAction.SendCtrlAltDel: microvm.SendCtrlAltDel(); break;
            default: microvm.FlushMetrics(); break;
        }
    }

    private void PutBootSource(ref JsonBody body)
    {
        var source = BootSource.Read(ref body);
        body.End();
        microvm.SetBootSource(source);
    }

    private void PutLogger(ref JsonBody body)
    {
        var config = LoggerConfig.Read(ref body);
        body.End();
        microvm.ConfigureLogger(config);
    }

    private void PutMetrics(ref JsonBody body)
    {
        var config = MetricsConfig.Read(ref body);
        body.End();
        microvm.ConfigureMetrics(config);
    }

    private void PutMachineConfig(ref JsonBody body)
    {
        var update = MachineConfigUpdate.Read(ref body, complete: true);
        body.End();
        microvm.ReplaceMachineConfig(update);
    }

    private void PatchMachineConfig(ref JsonBody body)
    {
        var update = MachineConfigUpdate.Read(ref body, complete: false);
        body.End();
        if (update.IsEmpty)
        {
            throw new ApiFaultException("Empty PATCH request.");
        }

        microvm.UpdateMachineConfig(update);
    }

    private void PutCpuConfig(ref JsonBody body)
    {
        var template = CpuTemplateBody.Read(ref body);
        body.End();
        microvm.SetCpuTemplate(template);
    }

    private void PutSnapshotCreate(ref JsonBody body)
    {
        var creation = SnapshotCreation.Read(ref body);
        body.End();
        microvm.CreateSnapshot(creation);
    }

    private void PutSnapshotLoad(ref JsonBody body)
    {
        var load = SnapshotLoad.Read(ref body);
        body.End();
        microvm.LoadSnapshot(load);
    }

    private void PutStatusPort(ref JsonBody body)
    {
        var path = SingleFieldBody.ReadStatusPort(ref body);
        body.End();
        microvm.SetStatusPort(path);
    }

    private void PutSerial(ref JsonBody body)
    {
        var serial = SerialConfig.Read(ref body);
        body.End();
        microvm.SetSerial(serial);
    }

    private void PutDrive(string path, ref JsonBody body)
    {
        var drive = DriveConfig.Read(ref body);
        body.End();
        ResourceId.Check(ResourceId.In(path), drive.Id);
        microvm.DevicesBeforeStart.SetDrive(drive);
    }

    private void PatchDrive(string path, ref JsonBody body)
    {
        var (id, file, limits) = DriveConfig.ReadUpdate(ref body);
        body.End();
        ResourceId.Check(ResourceId.In(path), id);
        microvm.RunningDevices.UpdateDrive(id, file, limits);
    }

    private void PutNetwork(string path, ref JsonBody body)
    {
        var network = NetworkConfig.Read(ref body);
        body.End();
        ResourceId.Check(ResourceId.In(path), network.Id, tellBoth: true);
        microvm.DevicesBeforeStart.SetNetwork(network);
    }

    private void PatchNetwork(string path, ref JsonBody body)
    {
        var (id, received, sent) = NetworkConfig.ReadUpdate(ref body);
        body.End();
        ResourceId.Check(ResourceId.In(path), id, tellBoth: true);
        microvm.RunningDevices.UpdateNetwork(id, received, sent);
    }

    private void PutBalloon(ref JsonBody body)
    {
        var balloon = BalloonConfig.Read(ref body);
        body.End();
        microvm.DevicesBeforeStart.Balloon = balloon;
    }

    private void PatchBalloon(ref JsonBody body)
    {
        var amount = BalloonConfig.ReadAmount(ref body);
        body.End();
        microvm.UpdateBalloon(amount);
    }

    private void PatchBalloonStatistics(ref JsonBody body)
    {
        var seconds = BalloonConfig.ReadInterval(ref body);
        body.End();
        microvm.RunningDevices.UpdateBalloonStatistics(seconds);
    }

    private static MetadataValue ReadMetadata(ref JsonBody body)
    {
        var document = MetadataApi.Read(ref body);
        body.End();
        return document;
    }

    private void PutMetadataConfig(ref JsonBody body)
    {
        var settings = MetadataApi.ReadSettings(ref body);
        body.End();
        microvm.ConfigureMetadata(settings);
    }

    private void PutVsock(ref JsonBody body)
    {
        var vsock = VsockConfig.Read(ref body);
        body.End();
        microvm.DevicesBeforeStart.SetVsock(vsock);
    }

    private void PutEntropy(ref JsonBody body)
    {
        var limits = EntropyConfig.Read(ref body);
        body.End();
        microvm.DevicesBeforeStart.Entropy = limits;
    }

    private void PatchEntropy(ref JsonBody body)
    {
        var limits = EntropyConfig.Read(ref body);
        body.End();
        microvm.RunningDevices.UpdateEntropy(limits);
    }

    private void PatchVm(ref JsonBody body)
    {
        var pause = SingleFieldBody.ReadWantsPause(ref body);
        body.End();
        if (pause)
        {
            microvm.Pause();
        }
        else
        {
            microvm.Resume();
        }
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
        log.Info($"The API server received a {verb} request on \"{target}\"{text}.");
    }

    private static string Name(HttpMethod method) => method switch
    {
        HttpMethod.Get => "GET",
        HttpMethod.Put => "PUT",
        HttpMethod.Patch => "PATCH",
        _ => "DELETE",
    };
}
