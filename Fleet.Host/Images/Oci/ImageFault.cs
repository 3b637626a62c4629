using Fleet.Host.Drivers;

namespace Fleet.Host.Images.Oci;

/// <summary>What may be wrong with a user's image, as the stable codes of docs/api.md.</summary>
internal static class ImageFault
{
    /// <summary>Broken, hostile or for another machine: it will be so on every host, and asking again does not help.</summary>
    public const string RefusedCode = "image_refused";

    public const string NotFoundCode = "image_not_found";

    public const string UnavailableCode = "registry_unavailable";

    /// <summary>This host has no room for it; another may.</summary>
    public const string NoSpaceCode = "image_no_space";

    public static LaunchFailedException Refused(string message, Exception? inner = null) => new(RefusedCode, $"The image is refused: {message}", inner);

    public static LaunchFailedException NotFound(string message) => new(NotFoundCode, message);

    public static LaunchFailedException Unavailable(string message, Exception? inner = null) => new(UnavailableCode, message, inner);

    public static LaunchFailedException NoSpace(string message, Exception? inner = null) => new(NoSpaceCode, message, inner);

    /// <summary>A name out of an image, for people: short, and without what a terminal would obey.</summary>
    public static string Show(string name)
    {
        var shown = name.Length > 100 ? name[..100] + "…" : name;
        return string.Create(shown.Length, shown, static (span, text) =>
        {
            for (var i = 0; i < span.Length; i++) span[i] = char.IsControl(text[i]) ? '?' : text[i];
        });
    }
}

/// <summary>How much an image may be before it is refused.</summary>
/// <param name="Entries">Of all its layers together: each takes some 300 bytes of the agent's memory while it is unpacked.</param>
/// <param name="Bytes">Of one layer as it travels, and of all layers unpacked.</param>
/// <param name="Metadata">Bytes of memory for the names and attributes of all layers' entries.</param>
internal sealed record ImageLimits(int Entries, long Bytes, long Metadata = 256L << 20)
{
    /// <summary>Layers of one image; Docker makes at most 127.</summary>
    public const int Layers = 256;

    /// <summary>A manifest, an index or a configuration: the distribution specification asks for 4 MiB.</summary>
    public const int Document = 4 << 20;

    /// <summary>Folders inside folders: a walk over the tree needs no more stack than this.</summary>
    public const int Depth = 255;

    /// <summary>Steps from folder to folder for each entry that an image may have, on the average, before it is refused.</summary>
    public const int StepsPerEntry = 100;

    /// <summary>Linux's PATH_MAX and NAME_MAX.</summary>
    public const int Path = 4095, Name = 255;

    public static ImageLimits Default { get; } = new(500_000, 32L << 30);
}
