using Fleet.Scheduler.Api;
using Fleet.Shared.Admin;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Admin;

/// <summary>
/// The operator's commands of one node. Palettes are found once, by their base class: so one more is one more file and nothing else.
/// </summary>
internal sealed class AdminConsole(AdminContext node, ILogger log)
{
    /// <summary>Commands that run at once: a few operators, each with a tail or two.</summary>
    public const int MostAtOnce = 16;

    /// <summary>A command that does not stream ends within this.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly IReadOnlyDictionary<string, Palette> _palettes = typeof(Palette).Assembly.GetTypes()
        .Where(type => type.IsSubclassOf(typeof(Palette)) && !type.IsAbstract)
        .Select(type => (Palette)Activator.CreateInstance(type)!)
        .ToDictionary(palette => palette.Definition.Name);

    private int _running;

    /// <summary>By name.</summary>
    public IReadOnlyList<PaletteDefinition> Palettes => field ??= [.. _palettes.Values.Select(palette => palette.Definition).OrderBy(palette => palette.Name, StringComparer.Ordinal)];

    public int Running => Volatile.Read(ref _running);

    /// <summary>The command that the words are, ready to be run.</summary>
    /// <exception cref="CommandException">There is none, it does not take what it is given, or it has to be confirmed.</exception>
    public ParsedCommand Parse(IReadOnlyList<string> words)
    {
        var parsed = CommandGrammar.Parse(Palettes, words);
        return parsed.IsConfirmed ? parsed : throw new CommandException(CommandException.Unconfirmed,
            $"{parsed.Palette.Name} {parsed.Command.Name}: {parsed.Command.Confirm} Say it again with {CommandGrammar.Yes.Switches[0]}.");
    }

    /// <summary>Runs a command to its end.</summary>
    /// <param name="parsed">What <see cref="Parse"/> gave.</param>
    /// <param name="by">Id of the token that asks, for the log.</param>
    /// <param name="output">Where it answers.</param>
    /// <param name="gone">Its client is gone or the node stops.</param>
    /// <exception cref="CommandException">It was refused or failed.</exception>
    public async Task RunAsync(ParsedCommand parsed, string by, CommandOutput output, CancellationToken gone)
    {
        using var time = new CancellationTokenSource(parsed.Command.Streams ? Timeout.InfiniteTimeSpan : Patience, node.Options.Clock);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(time.Token, gone);
        // Values are ids, addresses and numbers; no command takes a secret.
        log.LogCommand(parsed.Palette.Name, parsed.Command.Name, CommandWords.Join(parsed.Arguments.Select(argument => $"{argument.Key}={argument.Value}")), by);
        try
        {
            await _palettes[parsed.Palette.Name].RunAsync(new(parsed.Command, parsed.Arguments, node, output, either.Token));
        }
        catch (RequestRefused refused)
        {
            throw new CommandException(refused.Code, refused.Message);
        }
        catch (OperationCanceledException) when (time.IsCancellationRequested && !gone.IsCancellationRequested)
        {
            throw new CommandException(ErrorCodes.Unavailable, $"The command was not done within {Patience.TotalSeconds:0} s and was given up.");
        }
    }

    /// <summary>A place for one command; dispose it at its end.</summary>
    /// <exception cref="CommandException"><c>unavailable</c></exception>
    public IDisposable Enter()
    {
        if (Interlocked.Increment(ref _running) <= MostAtOnce)
            return new Place(this);
        Interlocked.Decrement(ref _running);
        throw new CommandException(ErrorCodes.Unavailable, $"{MostAtOnce} operator's commands run on this node, which is the most. End a tail, or try again later.");
    }

    private sealed class Place(AdminConsole owner) : IDisposable
    {
        private AdminConsole? _owner = owner;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _owner, null) is { } left)
                Interlocked.Decrement(ref left._running);
        }
    }
}

internal static partial class AdminLog
{
    [LoggerMessage(Level = LogLevel.Information, Message = "Operator's command {Palette} {Command} {Arguments} by token {TokenId}")]
    public static partial void LogCommand(this ILogger log, string palette, string command, string arguments, string tokenId);

    [LoggerMessage(Level = LogLevel.Error, Message = "Operator's command {Palette} {Command} failed, request {RequestId}")]
    public static partial void LogCommandFault(this ILogger log, Exception fault, string palette, string command, string requestId);
}
