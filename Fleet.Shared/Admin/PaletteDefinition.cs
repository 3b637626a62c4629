namespace Fleet.Shared.Admin;

/// <summary>The operator's commands about one thing, as a node tells them to its clients.</summary>
/// <param name="Name">The first word of each of them.</param>
/// <param name="Description">One line.</param>
/// <param name="Commands">In the order in which help lists them.</param>
public sealed record PaletteDefinition(string Name, string Description, IReadOnlyList<CommandDefinition> Commands);

/// <summary>One command: what it takes, and what must be known before it is sent.</summary>
/// <param name="Name">The second word: the verb.</param>
/// <param name="Description">One line.</param>
/// <param name="Arguments">Values that it takes.</param>
public sealed record CommandDefinition(string Name, string Description, IReadOnlyList<ArgumentDefinition> Arguments)
{
    /// <summary>What carrying it out means, for whoever is asked first; null: nobody is asked. With it, the command takes <c>--yes</c>.</summary>
    public string? Confirm { get; init; }

    /// <summary>It goes on until its client leaves.</summary>
    public bool Streams { get; init; }
}

/// <summary>One value of a command.</summary>
/// <param name="Name">What it is called in help and by the handler.</param>
/// <param name="Description">One line.</param>
/// <param name="Switches">The words that announce it, such as <c>-n</c> and <c>--lines</c>.</param>
public sealed record ArgumentDefinition(string Name, string Description, IReadOnlyList<string> Switches)
{
    /// <summary>The command is refused without it.</summary>
    public bool Mandatory { get; init; }

    /// <summary>It has no value: it is there or not.</summary>
    public bool Flag { get; init; }

    /// <summary>A value without its switch is this argument's; at most one argument of a command is so.</summary>
    public bool Bare { get; init; }

    /// <summary>What is taken when it is not given; null: nothing.</summary>
    public string? Default { get; init; }

    /// <summary>The only values it takes; empty: any.</summary>
    public IReadOnlyList<string> Choices { get; init; } = [];

    /// <summary>With <see cref="Maximum"/>: it is a whole number between them.</summary>
    public long? Minimum { get; init; }

    /// <inheritdoc cref="Minimum"/>
    public long? Maximum { get; init; }
}

/// <summary>A command that can't be taken or failed.</summary>
/// <param name="code">A code of docs/api.md, "Errors".</param>
/// <param name="message">What is wrong and what to do, in a sentence.</param>
public sealed class CommandException(string code, string message) : Exception(message)
{
    /// <summary>There is no such command, or it doesn't take what it was given.</summary>
    public const string Invalid = "invalid_command";

    /// <summary>It is carried out only when it is confirmed.</summary>
    public const string Unconfirmed = "confirmation_required";

    /// <summary>A stable code.</summary>
    public string Code { get; } = code;
}
