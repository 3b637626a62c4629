using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Channel;
using Fleet.Guest.Configuration;
using Fleet.Guest.Health;
using Fleet.Guest.Linux;
using Fleet.Guest.Logs;
using Fleet.Guest.Machine;
using Fleet.Guest.Processes;
using Fleet.Guest.Reporting;
using Fleet.Shared.GuestChannel;

namespace Fleet.Guest;

/// <summary>The life of one guest, from the first mount to the reset (docs/guest-protocol.md).</summary>
internal sealed class GuestInit
{
    private readonly StatusPort _status;
    private readonly int _console;
    private OutputLog? _log;

    private GuestInit(StatusPort status, int console)
    {
        _status = status;
        _console = console;
    }

    /// <summary>Runs as PID 1 and does not come back: the machine is gone first.</summary>
    public static void Run()
    {
        var complaints = FileSystems.MountForKernel();
        Kernel.KeepMessagesOffConsole();
        Kernel.DeliverCtrlAltDel();
        // As the leader of a session without a terminal, the first one opened becomes its controlling terminal.
        Libc.setsid();
        // The command is the terminal's foreground, and PID 1 is not: unless it ignores this signal the kernel refuses it
        // to drain the terminal and to let held output go.
        Libc.signal(Libc.SIGTTOU, Libc.Ignore);
        var console = Files.Open("/dev/ttyS0", Libc.O_RDWR, out _);
        if (console < 0) console = Files.Open("/dev/console", Libc.O_RDWR, out _);
        Terminal.SetSize(console);
        var init = new GuestInit(StatusPort.Open(), console);
        try
        {
            complaints.ForEach(init.Complain);
            init.RunCommand();
        }
        catch (BadConfigurationException error)
        {
            init.Fail("bad_config", error.Message);
        }
        catch (Exception error)
        {
            // Whatever it is, the machine must end and the host must hear why; a dead PID 1 would be a kernel panic.
            init.Fail("internal", error.Message);
        }
        init.End();
    }

    private void RunCommand()
    {
        var configuration = ReadConfiguration();
        Network.SetHostname(configuration.Hostname, Complain);
        Network.BringLoopbackUp(Complain);
        var nullDevice = Files.Open("/dev/null", Libc.O_RDWR, out _);
        VirtioDrivers.Load(nullDevice, Complain);
        UserAccount? user = null;
        if (configuration.Image is { } image)
        {
            ImageRoot.Enter(nullDevice, Complain);
            user = UserAccount.Find(image.User);
            // A program that opens /dev/stdout by its name opens the terminal anew.
            if (_console >= 0) Libc.fchown(_console, user.Uid, user.Gid);
        }
        FileSystems.MountForPrograms(configuration.Image is not null, Complain);
        // Without it the command runs all the same, and says what it misses.
        if (configuration.Network is { } network) NetworkInterface.SetUp(network, configuration.Hostname, Complain);
        Disks.MountVolumes(configuration.Volumes, user);

        var command = CommandLine.From(configuration, user, CommandLine.Probe);
        var exits = new ChildExits();
        var supervisor = new Supervisor(_console >= 0 ? _console : nullDevice, exits, configuration.Image?.StopSignal ?? Libc.SIGTERM, configuration.StopLimit);
        void OnStop(PosixSignalContext context)
        {
            context.Cancel = true;
            supervisor.Stop();
        }
        using var ctrlAltDel = PosixSignalRegistration.Create(PosixSignal.SIGINT, OnStop);
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnStop);

        HealthWatch? watch = null;
        FiguresPayload Figures() => Volatile.Read(ref watch)?.State is { } health ? MachineFigures.Read(health.State, health.Failures) : MachineFigures.Read(HealthState.None, 0);
        // Who asks must not be kept waiting.
        var channel = new HostChannel(Carrier.Find, configuration, exits) { Figures = Figures, StopAsked = limit => new Thread(() => supervisor.Stop(limit), 256 * 1024) { IsBackground = true }.Start() };
        _log = channel.Log;
        channel.Start();
        // A terminal has one output, and that is the console.
        var output = command.IsShell || configuration.Terminal ? null : CommandOutput.Open(channel.Log, _console, user);
        _status.Ready();
        var error = command.Path is null ? Libc.ENOENT
            : user is null ? supervisor.Start(command.Path, command.Argv, command.Environment, command.IsShell, output?.Output, output?.Errors)
            : supervisor.Start(UserProgram.Self, UserProgram.Arguments(user, configuration.Image!.WorkingDirectory, command.Path, command.Argv), command.Environment, command.IsShell, output?.Output, output?.Errors);
        output?.Start();
        if (error == 0)
        {
            string? unhealthy = null;
            if (configuration.Health is { } health)
            {
                var looks = new HealthWatch(health, ProbeOf(health, configuration, exits, nullDevice), problem =>
                {
                    Volatile.Write(ref unhealthy, problem);
                    Complain($"unhealthy: {problem}");
                    supervisor.Stop();
                }, channel.TellFigures);
                Volatile.Write(ref watch, looks);
                looks.Start();
            }
            var status = supervisor.WaitForCommand();
            Supervisor.EndLeftovers();
            FinishOutput(output);
            // However it ended: it was made to.
            if (Volatile.Read(ref unhealthy) is { } why) _status.Error("unhealthy", why);
            else if (supervisor.HasKilled) _status.Killed(status);
            else _status.Exit(status);
        }
        else if (CommandLine.Refusal(command.Argv[0], error) is { } refusal)
        {
            Complain(refusal.Message);
            FinishOutput(output);
            _status.Exit(refusal.Status);
        }
        else
        {
            Fail("exec_failed", $"{command.Argv[0]}: {Files.Describe(error)}");
        }
    }

    // Before how it ended is told: the host takes that for its last word.
    private void FinishOutput(CommandOutput? output)
    {
        // What a Ctrl-S holds back keeps the output waiting.
        Terminal.Resume(_console);
        output?.Finish();
        Terminal.Drain(_console);
    }

    private static Func<string?> ProbeOf(HealthCheck health, RunConfiguration configuration, ChildExits exits, int nullDevice)
    {
        if (health.Port > 0) return () => Probe.Ask(health.Port, health.HttpPath, health.Timeout);
        // Made by the command's start where it was missing.
        var folder = configuration.Image is { WorkingDirectory.Length: > 0 } image ? image.WorkingDirectory : null;
        return () => Probe.Run(CommandLine.From(configuration with { Argv = health.Argv }, null, CommandLine.Probe), folder, exits, nullDevice, health.Timeout);
    }

    private static RunConfiguration ReadConfiguration()
    {
        var json = Files.Read(RunConfiguration.Path, RunConfiguration.LargestFile, out var error);
        if (json is null)
            throw new BadConfigurationException($"{RunConfiguration.Path} can't be read: {(error == 0 ? "too large" : Files.Describe(error))}");
        return RunConfiguration.Parse(json);
    }

    private void Fail(string code, string message)
    {
        Complain(message);
        _status.Error(code, message);
    }

    private void End()
    {
        Terminal.Drain(_console);
        _status.Drain();
        var error = Kernel.PowerDown();
        Complain($"the kernel does not restart the machine: {Files.Describe(error)}");
    }

    private void Complain(string message)
    {
        var line = Encoding.UTF8.GetBytes($"fleet-init: {message}\n");
        if (_console >= 0) Files.WriteAll(_console, line);
        _log?.Put(FrameType.Errors, line);
    }
}
