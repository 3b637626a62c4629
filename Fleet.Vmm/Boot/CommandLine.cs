using System.Globalization;
using System.Text;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>The kernel's command line: what the user wants and what this machine needs.</summary>
internal static class CommandLine
{
    /// <summary>
    /// Adds what is missing, before a <c>--</c> that begins the arguments of init. A key that the user gave stays the user's:
    /// <c>reboot=k</c> (the only reset that works without a real-mode BIOS), <c>panic=1</c>, <c>pci=off</c> (there is no
    /// PCI bus to search), and with a status port a second serial port. Where the virtio devices are is told to kernels that
    /// don't read ACPI; the others find the same places there first.
    /// </summary>
    public static string Complete(string given, bool statusPort, IReadOnlyList<VirtioPlace> devices, RootDevice? root = null)
    {
        var (kernel, init) = SplitAtInitArguments(given);
        var line = new StringBuilder(kernel.TrimEnd().ToString());
        AppendMissing(line, kernel, "reboot", "k");
        AppendMissing(line, kernel, "panic", "1");
        AppendMissing(line, kernel, "pci", "off");
        if (statusPort)
        {
            AppendMissing(line, kernel, "8250.nr_uarts", "2");
        }

        // Before the places: a kernel takes its root where the user's own words leave it open.
        if (root is not null && !HasKey(kernel, "root"))
        {
            line.Append(CultureInfo.InvariantCulture, $" root={root.Name} {(root.ReadOnly ? "ro" : "rw")}");
        }

        foreach (var device in devices)
        {
            line.Append(CultureInfo.InvariantCulture, $" virtio_mmio.device=4K@0x{device.Address:x}:{device.Gsi}");
        }

        if (!init.IsEmpty)
        {
            line.Append(' ').Append(init);
        }

        return line.ToString();
    }

    /// <summary>Puts it, with its NUL, where the kernel is told to look.</summary>
    public static void Write(GuestMemory memory, string line, int limit)
    {
        foreach (var character in line)
        {
            if (character is < ' ' or > '~')
            {
                throw new MachineException(MachineFault.BootArgsInvalid, $"The boot arguments contain a character that is not printable ASCII (code {(int)character}).");
            }
        }

        if (line.Length > limit)
        {
            throw new MachineException(MachineFault.BootArgsInvalid, $"The boot arguments are too long: {line.Length} characters with what the machine adds, the kernel takes {limit}.");
        }

        var target = memory.Slice(GuestLayout.CommandLine, line.Length + 1);
        Encoding.ASCII.GetBytes(line, target);
        target[^1] = 0;
    }

    private static void AppendMissing(StringBuilder line, ReadOnlySpan<char> given, string key, string value)
    {
        if (!HasKey(given, key))
        {
            if (line.Length > 0)
            {
                line.Append(' ');
            }

            line.Append(key).Append('=').Append(value);
        }
    }

    private static bool HasKey(ReadOnlySpan<char> line, ReadOnlySpan<char> key)
    {
        while (NextWord(ref line, out var word))
        {
            var name = word.IndexOf('=') is var end and >= 0 ? word[..end] : word;
            if (SameName(name, key))
            {
                return true;
            }
        }

        return false;
    }

    // The kernel takes '-' and '_' for the same in names (kernel/params.c).
    private static bool SameName(ReadOnlySpan<char> left, ReadOnlySpan<char> right)
    {
        if (left.Length != right.Length)
        {
            return false;
        }

        for (var i = 0; i < left.Length; i++)
        {
            if ((left[i] == '-' ? '_' : left[i]) != (right[i] == '-' ? '_' : right[i]))
            {
                return false;
            }
        }

        return true;
    }

    private static InitSplit SplitAtInitArguments(string given)
    {
        ReadOnlySpan<char> rest = given;
        while (NextWord(ref rest, out var word))
        {
            if (word.SequenceEqual("--"))
            {
                var start = given.Length - rest.Length - word.Length;
                return new InitSplit(given.AsSpan(0, start), given.AsSpan(start));
            }
        }

        return new InitSplit(given, default);
    }

    // Words end at spaces, except inside double quotes.
    private static bool NextWord(ref ReadOnlySpan<char> line, out ReadOnlySpan<char> word)
    {
        line = line.TrimStart();
        var quoted = false;
        var end = 0;
        for (; end < line.Length && (quoted || !char.IsWhiteSpace(line[end])); end++)
        {
            quoted ^= line[end] == '"';
        }

        word = line[..end];
        line = line[end..];
        return end > 0;
    }

    private readonly ref struct InitSplit(ReadOnlySpan<char> kernel, ReadOnlySpan<char> init)
    {
        private readonly ReadOnlySpan<char> _kernel = kernel;
        private readonly ReadOnlySpan<char> _init = init;

        public void Deconstruct(out ReadOnlySpan<char> kernel, out ReadOnlySpan<char> init)
        {
            kernel = _kernel;
            init = _init;
        }
    }
}
