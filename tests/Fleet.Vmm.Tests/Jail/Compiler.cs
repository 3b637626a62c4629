using System.Diagnostics;
using Xunit;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>The system's C compiler.</summary>
internal static class Compiler
{
    private const string Program = "/usr/bin/gcc";

    /// <summary>What it says of a text; empty when nothing is wrong. Skips the test where there is none.</summary>
    public static string Check(string text) => Run(text, "-fsyntax-only");

    /// <summary>Makes a static program.</summary>
    public static void Build(string text, string program) => Assert.Equal("", Run(text, "-static", "-O1", "-pthread", "-o", program));

    private static string Run(string text, params string[] arguments)
    {
        Skip.IfNot(File.Exists(Program), "no C compiler");
        using var compiler = Process.Start(new ProcessStartInfo(Program, ["-x", "c", .. arguments, "-"]) { RedirectStandardInput = true, RedirectStandardError = true })!;
        compiler.StandardInput.Write(text);
        compiler.StandardInput.Close();
        var errors = compiler.StandardError.ReadToEnd();
        compiler.WaitForExit();
        return errors.Length > 0 || compiler.ExitCode == 0 ? errors : $"exit code {compiler.ExitCode}";
    }
}
