using System.Globalization;
using System.Text;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Snapshots;

/// <summary>
/// The process that fills a restored guest's memory as it is touched. It is handed the userfaultfd and a list of what is
/// where, as Firecracker's handlers are; it has to serve from then on, and zeros for what it is told was removed.
/// </summary>
/// <remarks>
/// The userfaultfd stays open here too: when the handler goes, the guest waits at its next untouched page instead of finding
/// zeros there.
/// </remarks>
internal sealed class FaultHandler : IDisposable
{
    /// <summary>A handler that does not take its message in this time is not there.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    private readonly UserFault _fault;
    private readonly DescriptorChannel _channel;
    private EventLoop? _loop;

    /// <summary>Hands over memory that nobody has touched yet.</summary>
    /// <exception cref="SnapshotException">The handler is not there, or this host lets nobody handle faults.</exception>
    public FaultHandler(string socketPath, GuestMemory memory)
    {
        try
        {
            _channel = new DescriptorChannel(socketPath, Patience);
        }
        catch (SystemCallException failure)
        {
            throw new SnapshotException($"no page fault handler listens at {socketPath}: {failure.Message}", failure);
        }

        try
        {
            _fault = new UserFault();
        }
        catch (SystemCallException failure)
        {
            _channel.Dispose();
            throw new SnapshotException($"this host does not let the VMM register page faults: {failure.Message}. It needs /dev/userfaultfd, or vm.unprivileged_userfaultfd=1, or CAP_SYS_PTRACE", failure);
        }

        try
        {
            Register(memory);
            _channel.Send(Encoding.ASCII.GetBytes(Describe(memory)), _fault.Descriptor);
            memory.HasContent = true;
        }
        catch (SystemCallException failure)
        {
            Dispose();
            throw new SnapshotException($"the page fault handler at {socketPath} could not be given the memory: {failure.Message}", failure);
        }
    }

    /// <summary>Tells, once, when the handler has closed its end.</summary>
    public void Watch(EventLoop loop, Action onGone)
    {
        _loop = loop;
        loop.Add(_channel.Descriptor, () =>
        {
            Ignore();
            onGone();
        });
    }

    public void Dispose()
    {
        Ignore();
        _channel.Dispose();
        _fault.Dispose();
    }

    private void Ignore()
    {
        _loop?.Remove(_channel.Descriptor);
        _loop = null;
    }

    private unsafe void Register(GuestMemory memory)
    {
        // SAFETY: the memory outlives the userfaultfd, see MachineParts.Dispose.
        _fault.Register(memory.LowHost, memory.Low.Size);
        if (memory.High.Size > 0)
        {
            _fault.Register(memory.HighHost, memory.High.Size);
        }
    }

    private static unsafe string Describe(GuestMemory memory)
    {
        var low = Mapping((ulong)memory.LowHost, memory.Low.Size, 0);
        return memory.High.Size > 0 ? $"[{low},{Mapping((ulong)memory.HighHost, memory.High.Size, memory.Low.Size)}]" : $"[{low}]";
    }

    // The last field is in bytes in spite of its name, for handlers of Firecracker's that read that one.
    private static string Mapping(ulong address, ulong size, ulong offset) => string.Create(
        CultureInfo.InvariantCulture,
        $$"""{"base_host_virt_addr":{{address}},"size":{{size}},"offset":{{offset}},"page_size":{{DirtyPages.PageSize}},"page_size_kib":{{DirtyPages.PageSize}}}""");
}
