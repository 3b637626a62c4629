using System.Globalization;
using Fleet.Scheduler.Logging;
using Serilog;
using Serilog.Events;

namespace Fleet.Cli.Node;

/// <summary>Where this program's log goes.</summary>
internal static class Logs
{
    private const string Form = "{Timestamp:HH:mm:ss.fff} {Level:u3} {Message:lj}{NewLine}{Exception}";

    /// <summary>Property of what standard error is told in the program's own words: the log's need not be there as well.</summary>
    public const string Told = "Told";

    /// <summary>Warnings and what long work is at, for somebody who waits in front of a terminal.</summary>
    public static ILogger ToStandardError() => new LoggerConfiguration()
        .MinimumLevel.Information()
        .WriteTo.Console(standardErrorFromLevel: LogEventLevel.Verbose, outputTemplate: "fleet: {Message:lj}{NewLine}", formatProvider: CultureInfo.InvariantCulture)
        .CreateLogger();

    /// <summary>A node's log: in files that are rolled and bounded (8 of 16 MiB), and on standard output; <paramref name="detached"/>: only its last words there. The operator's console reads what is <paramref name="kept"/>.</summary>
    public static Serilog.Core.Logger OfNode(DataDirectory data, bool detached, NodeLog kept) => new LoggerConfiguration()
        .MinimumLevel.ControlledBy(kept.Level)
        .MinimumLevel.Override("Microsoft", LogEventLevel.Warning)
        .MinimumLevel.Override("Grpc", LogEventLevel.Warning)
        .MinimumLevel.Override("Akka", LogEventLevel.Warning)
        .WriteTo.Logger(console => console
            .Filter.ByExcluding(entry => entry.Properties.ContainsKey(Told))
            .WriteTo.Console(detached ? LogEventLevel.Fatal : LogEventLevel.Verbose, outputTemplate: Form, formatProvider: CultureInfo.InvariantCulture))
        .WriteTo.File(
            Path.Combine(data.Log, "fleet.log"), outputTemplate: "{Timestamp:O} {Level:u3} {SourceContext} {Message:lj}{NewLine}{Exception}",
            formatProvider: CultureInfo.InvariantCulture, fileSizeLimitBytes: 16 << 20, rollOnFileSizeLimit: true, retainedFileCountLimit: 8)
        .WriteTo.Sink(kept)
        .CreateLogger();
}
