using System.Globalization;

namespace Fleet.Host.Images.Oci;

/// <summary>Linux's signals by their names, as an image asks to be stopped.</summary>
internal static class StopSignals
{
    /// <summary>What is sent when an image asks for nothing else.</summary>
    public const int Terminate = 15;

    private const int First = 1, Last = 64, FirstRealTime = 34;

    private static readonly string[] Names =
    [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP",
        "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];

    /// <summary>A number, or a name with or without SIG; empty: <see cref="Terminate"/>.</summary>
    public static int Parse(string text)
    {
        if (text.Length == 0) return Terminate;
        var name = text.ToUpperInvariant();
        if (name.StartsWith("SIG", StringComparison.Ordinal)) name = name[3..];
        var number = int.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out var given) ? given
            : name.StartsWith("RTMIN", StringComparison.Ordinal) ? FirstRealTime + Offset(name[5..])
            : name.StartsWith("RTMAX", StringComparison.Ordinal) ? Last + Offset(name[5..])
            : Array.IndexOf(Names, name);
        return number is >= First and <= Last ? number : throw ImageFault.Refused($"its stop signal '{ImageFault.Show(text)}' is none");
    }

    private static int Offset(string text) =>
        text.Length == 0 ? 0 : int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var offset) ? offset : int.MinValue / 2;
}
