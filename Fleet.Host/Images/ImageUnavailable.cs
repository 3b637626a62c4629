using Fleet.Host.Drivers;

namespace Fleet.Host.Images;

/// <summary>The one error of this folder: the image can't be had, with the sentence that says why and what to do.</summary>
internal static class ImageUnavailable
{
    /// <summary>The stable reason code (docs/api.md).</summary>
    public const string Code = "image_unavailable";

    public static LaunchFailedException Because(string message, Exception? inner = null) => new(Code, message, inner);
}
