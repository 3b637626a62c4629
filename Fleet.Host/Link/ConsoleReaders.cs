using Fleet.Shared.Contracts;

namespace Fleet.Host.Link;

/// <summary>
/// The consoles that the control plane reads at the moment, all on one stream. Not safe for several threads.
/// </summary>
internal sealed class ConsoleReaders
{
    /// <summary>Each reader holds an open file and up to one chunk of 64 KiB on its way.</summary>
    public const int Most = 1024;

    public const int MostPerVm = 16;

    private readonly Dictionary<ulong, ConsoleReader> _readers = [];
    private readonly Dictionary<string, int> _perVm = new(StringComparer.Ordinal);

    public int Count => _readers.Count;

    /// <summary>Begins a reader; one of the same number is closed first.</summary>
    /// <param name="request">What is wanted.</param>
    /// <param name="directory">Of the microVM.</param>
    /// <param name="ended">Completes when nothing more is written there.</param>
    /// <param name="clock">For the reader's pauses.</param>
    /// <param name="session">Takes what it sends.</param>
    /// <returns>The reader and its run, after which <see cref="Done"/> is to be called; null when there are too many.</returns>
    public (ConsoleReader Reader, Task Run)? TryOpen(OpenConsole request, string directory, Task ended, TimeProvider clock, LinkSession session)
    {
        Close(request.StreamId);
        var ofVm = _perVm.GetValueOrDefault(request.VmId);
        if (_readers.Count >= Most || ofVm >= MostPerVm)
            return null;
        var reader = new ConsoleReader(request, directory, ended, clock, session);
        _readers[request.StreamId] = reader;
        _perVm[request.VmId] = ofVm + 1;
        // Reading a file that is there never waits, and so would keep the caller until all of it is read.
        return (reader, Task.Run(reader.RunAsync));
    }

    public void Grant(ulong streamId, uint bytes)
    {
        if (_readers.TryGetValue(streamId, out var reader))
            reader.Grant(bytes);
    }

    public void Close(ulong streamId)
    {
        if (_readers.TryGetValue(streamId, out var reader))
        {
            reader.Close();
            Forget(streamId, reader);
        }
    }

    public void CloseAll()
    {
        foreach (var reader in _readers.Values)
            reader.Close();
        _readers.Clear();
        _perVm.Clear();
    }

    /// <summary>The reader's run is over.</summary>
    public void Done(ulong streamId, ConsoleReader reader)
    {
        if (_readers.TryGetValue(streamId, out var current) && ReferenceEquals(current, reader))
            Forget(streamId, reader);
    }

    private void Forget(ulong streamId, ConsoleReader reader)
    {
        _readers.Remove(streamId);
        if (_perVm[reader.VmId] == 1)
            _perVm.Remove(reader.VmId);
        else
            _perVm[reader.VmId]--;
    }
}
