using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Drivers;

/// <summary>The kinds of /dev/kvm that there are.</summary>
public enum KvmKind
{
    /// <summary>None, or it can't be used.</summary>
    None,

    /// <summary>Virtualisation by the processor, Intel VMX or AMD SVM: runs any kernel.</summary>
    Hardware,

    /// <summary>
    /// Software KVM for clouds without nested virtualisation: runs kernels built for it, and interprets the code of any
    /// other, instruction by instruction.
    /// </summary>
    Interpreting,
}

/// <summary>What was found out about /dev/kvm.</summary>
/// <param name="Detail">One sentence for people: what it is, or why it can't be used and what to do.</param>
public sealed record KvmFinding(KvmKind Kind, string Detail);

/// <summary>Finds out which kind of /dev/kvm this machine has.</summary>
/// <param name="root">Where /dev, /proc and /sys are looked for; for tests.</param>
public sealed partial class KvmProbe(string root = "/")
{
    private const nuint GetApiVersion = 0xae00;
    private const int ApiVersion = 12;

    /// <summary>Looks. Takes microseconds and changes nothing.</summary>
    public KvmFinding Look()
    {
        string device = Path.Combine(root, "dev/kvm");
        int? version = null;
        string? error = null;
        try
        {
            using var kvm = File.OpenHandle(device, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
            version = Ioctl(kvm, GetApiVersion, 0);
        }
        catch (FileNotFoundException)
        {
            error = "there is no /dev/kvm";
        }
        catch (DirectoryNotFoundException)
        {
            error = "there is no /dev/kvm";
        }
        catch (UnauthorizedAccessException)
        {
            error = "/dev/kvm can't be opened: permission denied; run as root or join the group kvm";
        }
        catch (IOException e)
        {
            error = $"/dev/kvm can't be opened: {e.Message}";
        }
        string modules = Path.Combine(root, "sys/module");
        return Classify(
            version, error, ProcessorFlags(),
            name => Directory.Exists(Path.Combine(modules, name)));
    }

    /// <summary>Judges the facts.</summary>
    /// <param name="version">What KVM_GET_API_VERSION returned; null when the device could not be opened.</param>
    internal static KvmFinding Classify(int? version, string? error, IReadOnlySet<string> flags, Func<string, bool> hasModule)
    {
        string? extension = flags.Contains("vmx") ? "vmx" : flags.Contains("svm") ? "svm" : null;
        if (version is null)
        {
            string cure = extension is null
                ? "the processor shows no virtualisation (vmx or svm): switch it on in the firmware, or allow nested virtualisation"
                : $"the processor has {extension}: modprobe kvm_{(extension == "vmx" ? "intel" : "amd")}";
            return new KvmFinding(KvmKind.None, error == "there is no /dev/kvm" ? $"{error}; {cure}" : error ?? cure);
        }
        if (version != ApiVersion) return new KvmFinding(KvmKind.None, $"/dev/kvm speaks API version {version}, not {ApiVersion}");
        if (hasModule("kvm_pvm"))
        {
            return new KvmFinding(KvmKind.Interpreting, "PVM (software KVM): small kernels run, a stock kernel would be interpreted and not boot");
        }
        if (extension is null)
        {
            return new KvmFinding(KvmKind.Interpreting,
                "/dev/kvm without vmx or svm (software KVM): small kernels run, a stock kernel would be interpreted and not boot");
        }
        return new KvmFinding(KvmKind.Hardware, $"hardware KVM ({extension})");
    }

    private HashSet<string> ProcessorFlags()
    {
        string path = Path.Combine(root, "proc/cpuinfo");
        if (!File.Exists(path)) return [];
        var line = File.ReadLines(path).FirstOrDefault(l => l.StartsWith("flags", StringComparison.Ordinal));
        return line is null ? [] : [.. line[(line.IndexOf(':', StringComparison.Ordinal) + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries)];
    }

    // KVM_GET_API_VERSION takes no argument and touches no memory of ours.
    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Ioctl(SafeFileHandle file, nuint request, nint argument);
}
