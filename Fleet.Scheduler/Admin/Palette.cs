using System.Globalization;
using Fleet.Shared.Admin;

namespace Fleet.Scheduler.Admin;

/// <summary>
/// The operator's commands about one thing: what they take, as data, and what they do. A palette is one class with a constructor without
/// arguments; <see cref="AdminConsole"/> finds it. It knows nothing of how a command came and where its answer goes.
/// </summary>
internal abstract class Palette(string name, string description)
{
    private readonly List<(CommandDefinition Definition, Func<CommandCall, Task> Run)> _commands = [];

    /// <summary>What clients are told.</summary>
    public PaletteDefinition Definition => new(name, description, [.. _commands.Select(command => command.Definition)]);

    /// <summary>Carries a command of this palette out.</summary>
    /// <exception cref="CommandException">It was refused or failed.</exception>
    public Task RunAsync(CommandCall call) => _commands.Single(command => command.Definition.Name == call.Command.Name).Run(call);

    protected void Add(CommandDefinition definition, Func<CommandCall, Task> run) => _commands.Add((definition, run));

    protected void Add(string verb, string description, Func<CommandCall, Task> run, params ArgumentDefinition[] arguments) =>
        Add(new CommandDefinition(verb, description, arguments), run);

    /// <summary>How many, from 1.</summary>
    protected static ArgumentDefinition Most(string what, int most, int otherwise) => new("most", $"How many {what} at most", ["-n", "--most"])
    {
        Minimum = 1,
        Maximum = most,
        Default = otherwise.ToString(CultureInfo.InvariantCulture),
    };
}

/// <summary>One command being carried out.</summary>
/// <param name="Command">Which.</param>
/// <param name="Values">What it was given, checked by its definition.</param>
/// <param name="Node">What it works with.</param>
/// <param name="Output">Where it answers.</param>
/// <param name="Cancellation">Its client is gone, its time is over, or the node stops.</param>
internal sealed record CommandCall(
    CommandDefinition Command, IReadOnlyDictionary<string, string> Values, AdminContext Node, CommandOutput Output, CancellationToken Cancellation)
{
    /// <summary>The value, its default, or null.</summary>
    public string? Find(string argument) => Values.GetValueOrDefault(argument);

    /// <summary>The value of an argument that is mandatory or has a default.</summary>
    public string Get(string argument) => Values[argument];

    /// <summary>The number of an argument that has bounds, and is mandatory or has a default.</summary>
    public int Number(string argument) => int.Parse(Values[argument], CultureInfo.InvariantCulture);

    public bool Has(string flag) => Values.ContainsKey(flag);
}
