using System.Runtime.InteropServices;
using System.Text;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Metadata;

namespace Fleet.Vmm.Api;

/// <summary>
/// Makes the machine factory; it calls <paramref name="endAtOnce"/> on the loop when a vCPU can't be stopped, and that does
/// not return. What it goes on without goes to <paramref name="warn"/>, on the loop too.
/// </summary>
internal delegate IMachineFactory MachineFactoryMaker(Action<string> endAtOnce, Action<string> warn);

/// <summary>
/// The process from its arguments to its exit code: log, signals, API socket, configuration file, event loop, and the
/// clean end. All on the calling thread.
/// </summary>
internal sealed partial class VmmProcess : IDisposable
{
    public const string Version = "0.1.0";

    private const int StandardOutput = 1;
    private const int StandardError = 2;

    /// <summary>What a stopping machine gets before the process ends without it.</summary>
    private static readonly TimeSpan StopTimeout = TimeSpan.FromSeconds(3);

    /// <summary>A machine that did not stop may hang in its Dispose as well; the process' end takes it along.</summary>
    private const string StuckReason = "vmm_stuck";

    private readonly CommandLine _arguments;
    private readonly TimeProvider _clock;
    private readonly VmmLog _log;
    private readonly EventLoop _loop;
    private readonly VmmMetrics _metrics;
    private readonly Microvm _microvm;
    private HttpServer? _server;
    private readonly LoopTimer _stopTimer;
    private ExitReport? _end;

    private VmmProcess(CommandLine arguments, MachineFactoryMaker makeFactory, TimeProvider clock, VmmLog log, EventLoop loop, VmmMetrics metrics)
    {
        _arguments = arguments;
        _clock = clock;
        _log = log;
        _loop = loop;
        _metrics = metrics;
        _microvm = new Microvm(arguments.Id, makeFactory(EndAtOnce, message => log.WarnOfGuest(message)), loop, log, metrics, new MetadataApi(new MetadataService(arguments.MetadataLimit, clock)), clock);

        // Made now, because at a stop there may be no descriptor left.
        _stopTimer = new LoopTimer(loop, OnStopTimeout);
        _microvm.Ended += end => End(ExitReport.Of(end));
        _microvm.LoadFailed += why => End(new(ExitCode.BadConfiguration, "snapshot_invalid", why));
    }

    /// <summary>Runs the VMM; returns the exit code. Never throws for what a caller, a file or a guest can cause.</summary>
    /// <param name="args">The command line.</param>
    /// <param name="makeFactory">Makes what builds the machine.</param>
    /// <param name="clock">For log lines, metrics and durations.</param>
    /// <param name="openSignals">Gives the descriptor that <see cref="Signals.Next"/> reads; it is closed at the end.</param>
    /// <param name="confine">Called before anything from outside is read, unless <c>--no-seccomp</c> says otherwise; may throw <see cref="SystemCallException"/>.</param>
    public static int Run(string[] args, MachineFactoryMaker makeFactory, TimeProvider clock, Func<int> openSignals, Action? confine = null)
    {
        CommandLine arguments;
        try
        {
            arguments = CommandLine.Parse(args);
        }
        catch (ArgumentFaultException fault)
        {
            var report = new ExitReport(ExitCode.Arguments, "arguments_invalid", fault.Message);
            Print(StandardError, $"Arguments parsing error: {fault.Message}\n\nFor more information try --help.\n");
            if (CommandLine.FindExitFile(args) is { Length: > 0 } path)
            {
                Tell(report, path, message => Print(StandardError, message + "\n"));
            }

            return report.Code;
        }

        if (arguments.WantsHelp || arguments.WantsVersion)
        {
            Print(StandardOutput, arguments.WantsHelp ? CommandLine.Help(Version) : $"fleet-vmm v{Version}\n");
            return ExitCode.Ok;
        }

        if (arguments.IsAboutSnapshots)
        {
            return SnapshotCommands.Run(arguments, Print);
        }

        using var log = new VmmLog(arguments.Id, clock);
        var end = RunLogged(arguments, makeFactory, clock, log, openSignals, arguments.NoSeccomp ? null : confine);
        if (end.Code == ExitCode.Ok)
        {
            log.Info($"fleet-vmm ends, {end.Reason}: {end.Message} exit_code={end.Code}");
        }
        else
        {
            log.Error($"fleet-vmm ends with an error, {end.Reason}: {end.Message} exit_code={end.Code}");
        }

        // Last of all: who reads it may take the directory away. The log's descriptor may be the last one there was;
        // without it the log goes to standard error.
        log.Dispose();
        if (arguments.ExitFile is { } exitFile)
        {
            Tell(end, exitFile, message => log.Error(message));
        }

        return end.Code;
    }

    private static ExitReport RunLogged(CommandLine arguments, MachineFactoryMaker makeFactory, TimeProvider clock, VmmLog log, Func<int> openSignals, Action? confine)
    {
        var level = arguments.Level is { } name ? LogLevels.Parse(name) : null;
        if (arguments.Level is not null && level is null)
        {
            return new(ExitCode.BadConfiguration, "bad_configuration",
                $"Invalid value for logger level: {arguments.Level}. Possible values: [Off, Error, Warning, Info, Debug, Trace]");
        }

        try
        {
            log.Configure(new LoggerConfig(arguments.LogPath, level, arguments.ShowLevel, arguments.ShowLogOrigin));
        }
        catch (SystemCallException failure)
        {
            return new(ExitCode.GenericError, "bad_configuration", $"Could not initialize logger: Failed to open target file {arguments.LogPath}: {failure.Reason}");
        }

        log.Info($"Running fleet-vmm v{Version}");
        try
        {
            using var loop = new EventLoop();
            using var metrics = new VmmMetrics(arguments.Id, clock);
            using var process = new VmmProcess(arguments, makeFactory, clock, log, loop, metrics);
            return process.Run(openSignals, confine);
        }
        catch (SystemCallException failure)
        {
            return RefusedByKernel(failure);
        }
    }

    private ExitReport Run(Func<int> openSignals, Action? confine)
    {
        var signals = -1;
        try
        {
            signals = openSignals();
            _loop.Add(signals, () => OnSignal(Signals.Next(signals)));
            confine?.Invoke();
            if (_arguments.MetricsPath is { } metricsPath)
            {
                _microvm.ConfigureMetrics(new MetricsConfig(metricsPath, false, []));
            }

            OpenRunLog();

            // The socket before the machine: a name that is taken must not cost a boot.
            _server = Listen();
            if (_arguments.MetadataFile is { } metadataFile)
            {
                _microvm.Metadata.Load(metadataFile);
                _log.Info("Successfully added metadata to mmds from file");
            }

            if (_arguments.ConfigFile is { } configFile)
            {
                ConfigFile.Load(configFile).Apply(_microvm);
                _microvm.Start();
                _log.Info("Successfully started microvm that was configured from one single json");
            }

            _server?.Serve();
            ReportStartup();
            _ = _loop.Run();
        }
        catch (ApiFaultException fault)
        {
            // The machine's lack of memory or KVM is not the configuration's fault.
            var host = fault.Code is "kvm_unavailable" or "out_of_memory" or "vmm_failed";
            _end = new(host ? ExitCode.GenericError : ExitCode.BadConfiguration, fault.Code, fault.Message);
        }
        catch (StartFailedException failure)
        {
            _end = failure.Report;
        }
        catch (SystemCallException failure)
        {
            _end = RefusedByKernel(failure);
        }
        catch (Exception bug) when (bug is not OutOfMemoryException)
        {
            _log.Error($"Unexpected failure: {bug}");
            _end = new(ExitCode.Unexpected, "vmm_failed", $"Unexpected failure of the VMM, see its log: {bug.Message}");
        }

        var end = _end ?? new(ExitCode.Unexpected, "vmm_failed", "The event loop ended without a reason.");
        _server?.Dispose();
        _microvm.FlushLastMetrics();
        if (signals >= 0)
        {
            _loop.Remove(signals);
            _ = Descriptors.close(signals);
        }

        return end;
    }

    public void Dispose()
    {
        _stopTimer.Dispose();
        if (_end?.Reason != StuckReason)
        {
            _microvm.Dispose();
            _microvm.RunLog?.Dispose();
        }
    }

    private static ExitReport RefusedByKernel(SystemCallException failure) => new(
        ExitCode.GenericError, "vmm_failed", $"The kernel refused what the VMM needs: {failure.Message}. Look at the limits of the process (RLIMIT_NOFILE) and the host's memory.");

    private void OpenRunLog()
    {
        if (_arguments.RunLog is not { } path)
        {
            return;
        }

        try
        {
            _microvm.RunLog = new RunLog(path, _arguments.RunLabel, _loop, _microvm.Lease);
        }
        catch (SystemCallException failure)
        {
            throw new StartFailedException(new(ExitCode.GenericError, "bad_configuration", $"The run log {path} can't be opened: {failure.Reason}."));
        }
    }

    private HttpServer? Listen()
    {
        if (_arguments.ApiSocket is not { } path)
        {
            return null;
        }

        var router = new ApiRouter(_microvm, _log, _metrics, _clock, Version);
        try
        {
            return new HttpServer(_loop, path, _arguments.LargestBody, router.Handle);
        }
        catch (SystemCallException failure)
        {
            var hint = failure.ErrorNumber == SystemCallException.AddressInUse
                ? " Another VMM listens there, or one that was killed left it behind: remove the file if nobody uses it."
                : "";
            throw new StartFailedException(new(ExitCode.GenericError, "api_socket_failed",
                $"Failed to open the API socket at: {path}. Check that it is not already used. {failure.Reason}.{hint}"));
        }
        catch (ArgumentException fault)
        {
            throw new StartFailedException(new(ExitCode.GenericError, "api_socket_failed", $"Failed to open the API socket at: {path}. {fault.Message}"));
        }
    }

    private void ReportStartup()
    {
        var cpu = KernelClock.Microseconds(KernelClock.ProcessCpu) - Math.Min(_arguments.StartCpuTime, KernelClock.Microseconds(KernelClock.ProcessCpu)) + _arguments.ParentCpuTime;
        _metrics.ProcessStartupCpuTime = cpu;
        if (_arguments.StartTime is { } start)
        {
            _metrics.ProcessStartupTime = KernelClock.Microseconds(KernelClock.Monotonic) - Math.Min(start, KernelClock.Microseconds(KernelClock.Monotonic));
        }

        _log.Debug($"Ready after {cpu} us of CPU time.");
    }

    private void OnSignal(int signal)
    {
        switch (signal)
        {
            case 0:
                return;
            case Signals.HangUp:
                _metrics.Count(Counter.SignalHangUp);
                Stop(new(ExitCode.HangUp, "stopped", "The VMM was stopped by SIGHUP."));
                return;
            case Signals.CpuTimeExceeded:
                _metrics.Count(Counter.SignalCpuTime);
                Stop(new(ExitCode.CpuTimeExceeded, "vmm_failed", "The VMM used up its CPU time (SIGXCPU)."));
                return;
            default:
                Stop(new(ExitCode.Ok, "stopped", signal == Signals.Terminate ? "The VMM was stopped by SIGTERM." : "The VMM was stopped by SIGINT."));
                return;
        }
    }

    /// <summary>Stops the machine and ends with <paramref name="report"/>; the machine's own word about its end comes after and does not count.</summary>
    private void Stop(ExitReport report)
    {
        if (_end is not null)
        {
            return;
        }

        _log.Info(report.Message);
        _end = report;
        _stopTimer.Start(StopTimeout, TimeSpan.Zero);
        if (!_microvm.Stop())
        {
            _loop.Exit(report.Code);
        }
    }

    private void OnStopTimeout()
    {
        _end = new(ExitCode.GenericError, StuckReason, $"The vCPUs did not stop within {StopTimeout.TotalSeconds} s; the VMM ended without them.");
        _loop.Exit(_end.Code);
    }

    private void End(ExitReport report)
    {
        _end ??= report;
        _loop.Exit(_end.Code);
    }

    /// <summary>A vCPU can't be stopped: nothing may be unmapped under it, so only what others see is put in order.</summary>
    private void EndAtOnce(string why)
    {
        var report = new ExitReport(ExitCode.GenericError, StuckReason, $"{why}; the VMM ended at once.");
        _log.Error(report.Message);
        _server?.Dispose();
        if (_arguments.ExitFile is { } path)
        {
            Tell(report, path, message => _log.Error(message));
        }

        ProcessEnd.Now(why);
    }

    private static void Tell(ExitReport report, string path, Action<string> onFailure)
    {
        try
        {
            report.WriteTo(path);
        }
        catch (SystemCallException failure)
        {
            onFailure($"The exit file {path} could not be written: {failure.Message}");
        }
    }

    private static void Print(int fd, string text) => _ = Descriptors.WriteAll(fd, Encoding.UTF8.GetBytes(text));

    private sealed class StartFailedException(ExitReport report) : Exception(report.Message)
    {
        public ExitReport Report { get; } = report;
    }
}
