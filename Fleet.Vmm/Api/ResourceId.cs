namespace Fleet.Vmm.Api;

/// <summary>Ids of drives and network interfaces.</summary>
internal static class ResourceId
{
    /// <summary>The id in a path such as <c>drives/root</c>; empty when there is none.</summary>
    public static string In(string path) => path.Split('/', 2) is [_, var id] ? id : "";

    /// <summary>The id from the path, checked against the body's.</summary>
    /// <param name="fromPath">As in the request's path.</param>
    /// <param name="fromBody">As in its body.</param>
    /// <param name="tellBoth">Upstream's sentence names both for network interfaces, and neither for drives.</param>
    public static void Check(string fromPath, string fromBody, bool tellBoth = false)
    {
        if (fromPath.Length == 0 || fromBody.Length == 0)
        {
            throw new ApiFaultException("The ID cannot be empty.");
        }

        foreach (var character in fromPath)
        {
            if (!char.IsAsciiLetterOrDigit(character) && character != '_')
            {
                throw new ApiFaultException("API Resource IDs can only contain alphanumeric characters and underscores.");
            }
        }

        if (fromPath != fromBody)
        {
            throw new ApiFaultException(tellBoth
                ? $"The id from the path [{fromPath}] does not match the id from the body [{fromBody}]!"
                : "The id from the path does not match the id from the body!");
        }
    }
}
