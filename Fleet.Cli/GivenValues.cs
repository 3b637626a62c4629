using System.CommandLine;
using System.CommandLine.Parsing;

namespace Fleet.Cli;

/// <summary>Options as validators see them: the parser throws when it is asked for a word that it could not read, and tells of that word itself.</summary>
internal static class GivenValues
{
    /// <summary>What the option says; nothing where its word can't be read.</summary>
    public static T? Given<T>(this OptionResult option)
    {
        try
        {
            return option.GetValueOrDefault<T>();
        }
        catch (InvalidOperationException)
        {
            return default;
        }
    }

    /// <summary>What that option says; nothing where it is not given (defaults are filled in later), or where its word can't be read.</summary>
    public static T? Given<T>(this CommandResult command, Option<T> option) => command.GetResult(option) is { } given ? given.Given<T>() : default;
}
