using System.Formats.Tar;
using System.Text;

namespace Fleet.Host.Tests.Images;

/// <summary>Debian packages made by hand, so that they can hold what no packaging tool would put in.</summary>
internal static class Debs
{
    /// <summary>Writes a package whose data archive is what <paramref name="fill"/> makes it.</summary>
    public static void Write(string path, Action<TarWriter> fill)
    {
        using var file = File.Create(path);
        file.Write("!<arch>\n"u8);
        Member(file, "debian-binary", "2.0\n"u8.ToArray());
        Member(file, "control.tar", Tar(tar => Add(tar, "./control", "Package: test\nVersion: 1\nArchitecture: all\nMaintainer: t\nDescription: t\n")));
        Member(file, "data.tar", Tar(fill));
    }

    public static void Add(TarWriter tar, string name, string content, UnixFileMode mode = (UnixFileMode)0x1A4) =>
        tar.WriteEntry(new PaxTarEntry(TarEntryType.RegularFile, name) { DataStream = new MemoryStream(Encoding.UTF8.GetBytes(content)), Mode = mode });

    public static void AddLink(TarWriter tar, TarEntryType type, string name, string target) =>
        tar.WriteEntry(new PaxTarEntry(type, name) { LinkName = target });

    private static byte[] Tar(Action<TarWriter> fill)
    {
        using var buffer = new MemoryStream();
        using (var tar = new TarWriter(buffer, leaveOpen: true)) fill(tar);
        return buffer.ToArray();
    }

    private static void Member(FileStream file, string name, byte[] content)
    {
        file.Write(Encoding.ASCII.GetBytes($"{name,-16}{0,-12}{0,-6}{0,-6}{"100644",-8}{content.Length,-10}`\n"));
        file.Write(content);
        if (content.Length % 2 == 1) file.WriteByte((byte)'\n');
    }
}
