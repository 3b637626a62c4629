using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Kvm;

/// <summary>/dev/kvm, opened and checked: it speaks version 12 and has what a machine needs.</summary>
internal sealed unsafe class KvmSystem : IDisposable
{
    private const int ApiVersion = 12;

    /// <summary>The kernel's KVM_MAX_CPUID_ENTRIES; more it never gives nor takes.</summary>
    public const int MaxCpuidEntries = 256;

    /// <summary>KVM_CREATE_VM gives up with EINTR when a signal arrives; Firecracker tries as often.</summary>
    private const int CreateAttempts = 5;

    private int _fd;

    public KvmSystem(string path = "/dev/kvm")
    {
        _fd = Descriptors.OpenDevice(path);
        try
        {
            var version = Control(KvmCalls.GetApiVersion, 0, "KVM_GET_API_VERSION");
            if (version != ApiVersion)
            {
                throw new KvmUnsuitableException($"{path} speaks API version {version}, this program needs {ApiVersion}");
            }

            Require(KvmCalls.CapabilityUserMemory, "KVM_CAP_USER_MEMORY");
            Require(KvmCalls.CapabilityIrqChip, "KVM_CAP_IRQCHIP");
            Require(KvmCalls.CapabilitySetTssAddress, "KVM_CAP_SET_TSS_ADDR");
            Require(KvmCalls.CapabilityExtendedCpuid, "KVM_CAP_EXT_CPUID");
            Require(KvmCalls.CapabilityMpState, "KVM_CAP_MP_STATE");
            Require(KvmCalls.CapabilityPit2, "KVM_CAP_PIT2");
            Require(KvmCalls.CapabilityVcpuEvents, "KVM_CAP_VCPU_EVENTS");
            Require(KvmCalls.CapabilityImmediateExit, "KVM_CAP_IMMEDIATE_EXIT");
            VcpuMapSize = Control(KvmCalls.GetVcpuMmapSize, 0, "KVM_GET_VCPU_MMAP_SIZE");
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Bytes of the area that a vCPU shares with the kernel.</summary>
    public int VcpuMapSize { get; }

    /// <summary>How many vCPUs a VM may have.</summary>
    public int MaxVcpus => Control(KvmCalls.CheckExtension, (nint)KvmCalls.CapabilityMaxVcpus, "KVM_CHECK_EXTENSION");

    /// <summary>Indices of the MSRs that make up a guest's state.</summary>
    public uint[] ReadMsrIndices()
    {
        const int Most = 1024;
        var list = stackalloc uint[1 + Most];
        list[0] = Most;

        // SAFETY: a count, and room for so many indices behind it.
        if (KvmCalls.Ioctl(_fd, KvmCalls.GetMsrIndexList, list) < 0)
        {
            throw SystemCallException.Last("KVM_GET_MSR_INDEX_LIST");
        }

        return new ReadOnlySpan<uint>(list + 1, (int)Math.Min(list[0], Most)).ToArray();
    }

    public KvmVm CreateVm()
    {
        for (var attempt = 1; ; attempt++)
        {
            var fd = KvmCalls.Ioctl(_fd, KvmCalls.CreateVm, 0);
            if (fd >= 0)
            {
                return new KvmVm(fd);
            }

            if (Marshal.GetLastPInvokeError() != SystemCallException.Interrupted || attempt == CreateAttempts)
            {
                throw SystemCallException.Last("KVM_CREATE_VM");
            }
        }
    }

    /// <summary>Fills <paramref name="entries"/> (room for <see cref="MaxCpuidEntries"/>) with what KVM can show a guest; returns how many.</summary>
    public int ReadSupportedCpuid(Span<KvmCpuidEntry> entries)
    {
        var size = sizeof(KvmCpuidHeader) + MaxCpuidEntries * sizeof(KvmCpuidEntry);
        var buffer = stackalloc byte[size];

        // SAFETY: the buffer has room for the header and MaxCpuidEntries behind it; the kernel writes at most Count entries,
        // and no more than MaxCpuidEntries are read.
        var header = (KvmCpuidHeader*)buffer;
        header->Count = MaxCpuidEntries;
        if (KvmCalls.Ioctl(_fd, KvmCalls.GetSupportedCpuid, buffer) < 0)
        {
            throw SystemCallException.Last("KVM_GET_SUPPORTED_CPUID");
        }

        var count = (int)Math.Min(header->Count, MaxCpuidEntries);
        new ReadOnlySpan<KvmCpuidEntry>(header + 1, count).CopyTo(entries);
        return count;
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    private void Require(uint capability, string name)
    {
        if (Control(KvmCalls.CheckExtension, (nint)capability, "KVM_CHECK_EXTENSION") <= 0)
        {
            throw new KvmUnsuitableException($"this host's KVM lacks {name}");
        }
    }

    private int Control(uint request, nint argument, string name)
    {
        var result = KvmCalls.Ioctl(_fd, request, argument);
        return result >= 0 ? result : throw SystemCallException.Last(name);
    }
}

/// <summary>There is a KVM, but not one that this program can use.</summary>
internal sealed class KvmUnsuitableException(string message) : Exception(message);
