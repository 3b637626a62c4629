using System.Collections.Concurrent;
using System.Net;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Node;
using Fleet.Scheduler.Tests.Access;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Net.Client;

namespace Fleet.Scheduler.Tests.Node;

/// <summary>An agent over the real port: launches at once, echoes console input, ends and removes what it is told to.</summary>
internal sealed class LinkedAgent : IAsyncDisposable
{
    private readonly string _hostId;
    private readonly GrpcChannel _channel;
    private readonly AsyncDuplexStreamingCall<HostMessage, SchedulerMessage> _call;
    private readonly SemaphoreSlim _sending = new(1, 1);
    private readonly ConcurrentDictionary<string, (ulong Epoch, ulong Sequence, HostVmState State)> _vms;
    private readonly ConcurrentDictionary<string, VmReport> _unacknowledged = new();
    private readonly TaskCompletionSource _welcome = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Task _running;

    private LinkedAgent(IPEndPoint link, X509Certificate2 certificate, string hostId, ConcurrentDictionary<string, (ulong, ulong, HostVmState)> vms)
    {
        _hostId = hostId;
        _vms = vms;
        _channel = LinkClient.Open(link, certificate);
        _call = new HostLink.HostLinkClient(_channel).Connect();
        _running = RunAsync();
    }

    public ConcurrentDictionary<string, (ulong Epoch, ulong Sequence, HostVmState State)> Vms => _vms;

    public string Output { get; set; } = "hello from 6.1 on 2 cpus\n";

    public string Input { get; private set; } = "";

    public bool Ended => _running.IsCompleted;

    /// <param name="node">Whose port for agents it joins at and dials.</param>
    /// <param name="hostId">Who it is.</param>
    /// <param name="before">The same agent before its node went away: its microVMs are still there.</param>
    /// <param name="fenced">It has a lease.</param>
    public static async Task<LinkedAgent> ConnectAsync(SchedulerNode node, string hostId, LinkedAgent? before = null, bool fenced = false)
    {
        var token = await node.CreateTokenAsync(new TokenRequest(TokenRole.Host) { Host = hostId }, default);
        var (certificate, code) = await LinkClient.EnrolAsync(node.LinkEndpoint, token.Text, hostId);
        Xunit.Assert.Equal("", code);
        var agent = new LinkedAgent(node.LinkEndpoint, certificate!, hostId, before?._vms ?? new());
        var hello = new Hello
        {
            HostId = hostId, Fenced = fenced, AgentVersion = "0.1.0", BootId = "boot", AgentInstance = Guid.NewGuid().ToString("n"),
            Inventory = new Inventory
            {
                Cpus = 8, MemoryMib = 16_384, AutoDriver = "simulated", Kernel = "6.1.0", Architecture = "x86_64",
                Drivers = { new DriverStatus { Name = "simulated", Usable = true, StockKernels = true } },
            },
        };
        foreach (var (id, vm) in agent._vms)
            hello.Vms.Add(Report(id, vm.Epoch, vm.Sequence, vm.State));
        await agent.SendAsync(new HostMessage { Hello = hello });
        await agent._welcome.Task.WaitAsync(TimeSpan.FromSeconds(20));
        return agent;
    }

    public Task EndAsync(string vmId, int status) => TellAsync(vmId, HostVmState.Ended, new GuestExit { Status = status });

    public async ValueTask DisposeAsync()
    {
        _call.Dispose();
        await _running;
        _channel.Dispose();
        _sending.Dispose();
    }

    private async Task RunAsync()
    {
        try
        {
            await foreach (var message in _call.ResponseStream.ReadAllAsync())
                await OnAsync(message);
        }
        catch (Exception fault) when (fault is RpcException or OperationCanceledException or IOException or InvalidOperationException)
        {
            // The stream is over, which Ended shows.
        }
    }

    private async Task OnAsync(SchedulerMessage message)
    {
        switch (message.BodyCase)
        {
            case SchedulerMessage.BodyOneofCase.Welcome:
                foreach (var unknown in message.Welcome.Unknown)
                    _vms.TryRemove(unknown.VmId, out _);
                _ = BeatAsync(message.Welcome.HeartbeatMs);
                _welcome.TrySetResult();
                break;
            case SchedulerMessage.BodyOneofCase.ReportAck when _unacknowledged.TryGetValue(message.ReportAck.VmId, out var last)
                && last.Sequence <= message.ReportAck.Sequence:
                _unacknowledged.TryRemove(message.ReportAck.VmId, out _);
                break;
            case SchedulerMessage.BodyOneofCase.Launch when !_vms.ContainsKey(message.Launch.VmId):
                _vms[message.Launch.VmId] = (message.Launch.Epoch, 0, HostVmState.Launching);
                await TellAsync(message.Launch.VmId, HostVmState.Running);
                break;
            case SchedulerMessage.BodyOneofCase.Stop when _vms.ContainsKey(message.Stop.VmId):
                await TellAsync(message.Stop.VmId, HostVmState.Ended);
                break;
            case SchedulerMessage.BodyOneofCase.Remove:
                _vms.TryAdd(message.Remove.VmId, (message.Remove.Epoch, 0, HostVmState.Ended));
                await TellAsync(message.Remove.VmId, HostVmState.Removed);
                break;
            case SchedulerMessage.BodyOneofCase.OpenConsole:
                await SendAsync(new HostMessage { Console = new ConsoleChunk { StreamId = message.OpenConsole.StreamId, Data = ByteString.CopyFromUtf8(Output) } });
                await SendAsync(new HostMessage { Console = new ConsoleChunk { StreamId = message.OpenConsole.StreamId, Offset = (ulong)Output.Length, End = true } });
                break;
            case SchedulerMessage.BodyOneofCase.ConsoleInput:
                Input += message.ConsoleInput.Data.ToStringUtf8();
                break;
        }
    }

    private async Task BeatAsync(uint milliseconds)
    {
        while (!Ended)
        {
            await Task.Delay((int)milliseconds / 2);
            if (Ended)
                return;
            await SendAsync(new HostMessage { Heartbeat = new Heartbeat { Sequence = 1 } });
            foreach (var report in _unacknowledged.Values)
                await SendAsync(new HostMessage { Report = report });
        }
    }

    private Task TellAsync(string vmId, HostVmState state, GuestExit? exit = null)
    {
        var vm = _vms[vmId];
        _vms[vmId] = vm with { Sequence = vm.Sequence + 1, State = state };
        var report = Report(vmId, vm.Epoch, vm.Sequence + 1, state);
        report.Exit = exit;
        if (exit is not null)
            report.Reason = new Reason { Code = "command_exited", Message = $"The command ended with status {exit.Status}." };
        _unacknowledged[vmId] = report;
        return SendAsync(new HostMessage { Report = report });
    }

    private static VmReport Report(string vmId, ulong epoch, ulong sequence, HostVmState state) =>
        new() { VmId = vmId, Epoch = epoch, Sequence = sequence, State = state, Driver = "simulated" };

    private async Task SendAsync(HostMessage message)
    {
        await _sending.WaitAsync();
        try
        {
            await _call.RequestStream.WriteAsync(message);
        }
        catch (Exception fault) when (fault is RpcException or InvalidOperationException or OperationCanceledException or IOException)
        {
            // The stream is over; a new agent will dial.
        }
        finally
        {
            _sending.Release();
        }
    }
}
