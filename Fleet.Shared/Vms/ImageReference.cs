using System.Diagnostics.CodeAnalysis;
using System.Net;
using System.Text;

namespace Fleet.Shared.Vms;

/// <summary>Where an image is.</summary>
public enum ImageLocation
{
    /// <summary>A registry that speaks the OCI distribution API.</summary>
    Registry,

    /// <summary>A folder on the host in the OCI image layout.</summary>
    Layout,

    /// <summary>A tar on the host as <c>docker save</c> writes it.</summary>
    Archive,
}

/// <summary>
/// The name of an OCI image as a spec has it: <c>registry/name:tag</c>, <c>registry/name@sha256:…</c>, <c>oci:/folder:tag</c> or
/// <c>docker-archive:/file.tar:name:tag</c>. A name without a registry is one of docker.io, as everywhere.
/// </summary>
public sealed record ImageReference
{
    /// <summary>Longest text of a reference.</summary>
    public const int MaxLength = 1024;

    private const string LayoutPrefix = "oci:", ArchivePrefix = "docker-archive:", DefaultTag = "latest", DockerHub = "docker.io";
    private const int MaxRepository = 255, MaxTag = 128;

    private ImageReference()
    {
    }

    public required ImageLocation Location { get; init; }

    /// <summary>Host and port; empty unless it is a registry's.</summary>
    public string Registry { get; private init; } = "";

    /// <summary>The name within the registry.</summary>
    public string Repository { get; private init; } = "";

    /// <summary>Folder or file on the host; empty when it is a registry's.</summary>
    public string Path { get; private init; } = "";

    /// <summary>The tag, or for files the name by which they know the image; empty: the only one there, or the digest says which.</summary>
    public string Tag { get; private init; } = "";

    /// <summary><c>sha256:</c> and 64 hexadecimal digits; empty: whatever the tag says.</summary>
    public string Digest { get; private init; } = "";

    /// <summary>It comes from the very host that runs it: out of a file, or from a registry on its loopback, where it may have other services.</summary>
    public bool IsOfHost => Location != ImageLocation.Registry || IsLoopback(Registry);

    /// <summary>Whether a host by its name or address, with its port or without, is the machine that says it.</summary>
    public static bool IsLoopback(string authority)
    {
        ArgumentNullException.ThrowIfNull(authority);
        var host = authority.StartsWith('[') ? authority[1..].Split(']')[0] : authority.Split(':')[0];
        return host.Equals("localhost", StringComparison.OrdinalIgnoreCase) || host.EndsWith(".localhost", StringComparison.OrdinalIgnoreCase)
            || (IPAddress.TryParse(host, out var address) && IsLoopback(address));
    }

    /// <summary>Whether the address leads to the machine that speaks to it; 0.0.0.0 and :: do so as well.</summary>
    public static bool IsLoopback(IPAddress address)
    {
        ArgumentNullException.ThrowIfNull(address);
        var plain = address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address;
        return IPAddress.IsLoopback(plain) || plain.Equals(IPAddress.IPv6Any)
            || (plain.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork && plain.GetAddressBytes()[0] == 0);
    }

    /// <summary>The one way to write it.</summary>
    public override string ToString() => Location switch
    {
        ImageLocation.Layout => LayoutPrefix + Path + (Tag.Length > 0 ? ":" + Tag : ""),
        ImageLocation.Archive => ArchivePrefix + Path + (Tag.Length > 0 ? ":" + Tag : ""),
        _ => $"{Registry}/{Repository}" + (Tag.Length > 0 ? ":" + Tag : "") + (Digest.Length > 0 ? "@" + Digest : ""),
    };

    /// <summary>Reads a reference; else <paramref name="problem"/> is a sentence that says what is allowed.</summary>
    public static bool TryParse(string text, [NotNullWhen(true)] out ImageReference? reference, out string problem)
    {
        ArgumentNullException.ThrowIfNull(text);
        (reference, problem) = (null, "");
        if (text.Length > MaxLength || Encoding.UTF8.GetByteCount(text) > MaxLength)
            problem = $"An image's name has at most {MaxLength} bytes.";
        else if (text.Any(c => char.IsControl(c) || char.IsWhiteSpace(c)))
            problem = "An image's name has no spaces and no control characters.";
        else if (text.StartsWith(LayoutPrefix, StringComparison.Ordinal))
            reference = OfFile(ImageLocation.Layout, text[LayoutPrefix.Length..], ref problem);
        else if (text.StartsWith(ArchivePrefix, StringComparison.Ordinal))
            reference = OfFile(ImageLocation.Archive, text[ArchivePrefix.Length..], ref problem);
        else
            reference = OfRegistry(text, ref problem);
        return reference is not null;
    }

    /// <summary>Whether the text is <c>sha256:</c> and 64 lower-case hexadecimal digits, the only kind of digest that is taken.</summary>
    public static bool IsDigest(string? text) =>
        text is { Length: 71 } && text.StartsWith("sha256:", StringComparison.Ordinal) && text.Skip(7).All(char.IsAsciiHexDigitLower);

    private static ImageReference? OfFile(ImageLocation location, string rest, ref string problem)
    {
        var slash = rest.LastIndexOf('/');
        var colon = rest.IndexOf(':', Math.Max(slash, 0));
        // docker-archive:/images/a.tar:registry/name:tag has slashes behind the file's name.
        if (location == ImageLocation.Archive && rest.IndexOf(".tar:", StringComparison.Ordinal) is >= 0 and var end)
            colon = end + ".tar".Length;
        var (path, name) = colon >= 0 ? (rest[..colon], rest[(colon + 1)..]) : (rest, "");
        if (path.Length < 2 || path[0] != '/' || (colon >= 0 && name.Length == 0) || path.Split('/').Contains(".."))
        {
            problem = "An image in a file is written oci:/folder:tag or docker-archive:/file.tar:name:tag, with an absolute path on the host; the name may be left out.";
            return null;
        }
        return new ImageReference { Location = location, Path = path, Tag = name };
    }

    private static ImageReference? OfRegistry(string text, ref string problem)
    {
        problem = "An image is written registry/name:tag or registry/name@sha256:…, with a name of a-z, 0-9, '.', '_', '-' and '/'.";
        var (rest, digest) = Cut(text, text.IndexOf('@', StringComparison.Ordinal));
        if (digest is not null && !IsDigest(digest))
        {
            problem = "An image's digest is sha256: and 64 hexadecimal digits in lower case.";
            return null;
        }
        var colon = rest.LastIndexOf(':');
        var (name, tag) = Cut(rest, colon > rest.LastIndexOf('/') ? colon : -1);
        if (tag is not null && !IsTag(tag))
            return null;
        var slash = name.IndexOf('/', StringComparison.Ordinal);
        var first = slash > 0 ? name[..slash] : "";
        var named = first == "localhost" || first.AsSpan().ContainsAny('.', ':');
        var registry = named ? first : DockerHub;
        var repository = named ? name[(slash + 1)..] : slash < 0 ? "library/" + name : name;
        if (!IsRegistry(registry) || repository.Length > MaxRepository || !repository.Split('/').All(IsPathPart))
            return null;
        return new ImageReference
        {
            Location = ImageLocation.Registry,
            Registry = registry,
            Repository = repository,
            Tag = tag ?? (digest is null ? DefaultTag : ""),
            Digest = digest ?? "",
        };
    }

    private static (string Before, string? After) Cut(string text, int at) => at < 0 ? (text, null) : (text[..at], text[(at + 1)..]);

    private static bool IsTag(string tag) =>
        tag.Length is >= 1 and <= MaxTag && tag[0] is not ('.' or '-') && tag.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-');

    private static bool IsPathPart(string part) =>
        part.Length > 0 && VmSpecRules.IsLowerOrDigit(part[0]) && VmSpecRules.IsLowerOrDigit(part[^1]) && part.All(c => VmSpecRules.IsLowerOrDigit(c) || c is '.' or '_' or '-');

    private static bool IsRegistry(string registry)
    {
        var colon = registry.LastIndexOf(':');
        var (host, port) = Cut(registry, colon);
        return host.Length <= 253 && host.Split('.').All(IsLabel)
            && (port is null || (port.Length is >= 1 and <= 5 && port.All(char.IsAsciiDigit) && int.Parse(port, System.Globalization.CultureInfo.InvariantCulture) is >= 1 and <= 65535));
    }

    private static bool IsLabel(string label) =>
        label.Length is >= 1 and <= 63 && label[0] != '-' && label[^1] != '-' && label.All(c => char.IsAsciiLetterOrDigit(c) || c == '-');
}
