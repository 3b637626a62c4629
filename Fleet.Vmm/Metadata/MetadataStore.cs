using System.Text;

namespace Fleet.Vmm.Metadata;

/// <summary>A document that is larger than the store may hold; nothing was changed.</summary>
internal sealed class MetadataTooLargeException() : Exception("The MMDS patch request doesn't fit.");

/// <summary>The metadata of one microVM: one JSON document, set by the host and read by the guest.</summary>
/// <param name="limit">Bytes that the document may have as JSON without white space.</param>
internal sealed class MetadataStore(int limit)
{
    /// <summary>Null until the host has put something.</summary>
    public MetadataValue? Document { get; private set; }

    /// <summary>Puts a document in place of the one that is there. Throws <see cref="MetadataTooLargeException"/>.</summary>
    public void Replace(MetadataValue document)
    {
        if (document.ToJson().Length > limit)
        {
            throw new MetadataTooLargeException();
        }

        Document = document;
    }

    /// <summary>The value at a path such as <c>/latest/meta-data/</c>; null when there is none.</summary>
    /// <remarks>A JSON pointer, in which slashes may be repeated and one may stand at the end.</remarks>
    public MetadataValue? Find(string path)
    {
        var pointer = Clean(path).AsSpan().TrimEnd('/');
        return pointer.IsEmpty ? Document : Document?.Find(pointer[0] == '/' ? pointer[1..] : pointer);
    }

    /// <summary>A path with each run of slashes made one.</summary>
    public static string Clean(string path)
    {
        var clean = new StringBuilder(path.Length);
        var afterSlash = false;
        foreach (var character in path)
        {
            if (character != '/' || !afterSlash)
            {
                clean.Append(character);
            }

            afterSlash = character == '/';
        }

        return clean.ToString();
    }

    /// <summary>
    /// A value as the metadata services of clouds tell it: the names of an object, one a line, with a slash behind those that
    /// are objects; the text of a string. Null for all else.
    /// </summary>
    public static byte[]? AsText(MetadataValue value)
    {
        switch (value.Kind)
        {
            case MetadataKind.String:
                return Encoding.UTF8.GetBytes(value.Text);
            case MetadataKind.Object:
                var text = new StringBuilder();
                foreach (var member in value.Members)
                {
                    text.Append(text.Length > 0 ? "\n" : "").Append(member.Name).Append(member.Value.Kind == MetadataKind.Object ? "/" : "");
                }

                return Encoding.UTF8.GetBytes(text.ToString());
            default:
                return null;
        }
    }
}
