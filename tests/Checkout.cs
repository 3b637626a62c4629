namespace Fleet.Tests;

/// <summary>The checkout that the tests were built from.</summary>
internal static class Checkout
{
    public static string Root { get; } = Find();

    /// <summary>Where <c>./fleet build</c> puts what it builds: vmm/fleet-vmm, guest/fleet-init, cli/fleet.dll.</summary>
    public static string Artifacts => Path.Combine(Root, "artifacts");

    private static string Find()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Fleet.sln")))
                return folder.FullName;
        }

        throw new InvalidOperationException($"No Fleet.sln above {AppContext.BaseDirectory}: run the tests from a checkout.");
    }
}
