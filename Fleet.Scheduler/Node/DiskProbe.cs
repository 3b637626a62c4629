namespace Fleet.Scheduler.Node;

/// <summary>Whether the disk below a folder still takes what a node has to store. Thread-safe.</summary>
/// <param name="folder">Exists, and is the node's own.</param>
/// <param name="clock">By which an answer grows old.</param>
internal sealed class DiskProbe(string folder, TimeProvider clock)
{
    /// <summary>Some hundred creates. Less means that the next one may fail.</summary>
    private const long Room = 1 << 20;

    /// <summary>Whoever asks for health may do so without a token, and as often as he likes.</summary>
    private static readonly TimeSpan Life = TimeSpan.FromSeconds(2);

    private readonly Lock _lock = new();
    private (TimeSpan At, string? Trouble)? _last;
    private readonly long _since = clock.GetTimestamp();

    /// <summary>What is wrong and what to do, or null. At most <see cref="Life"/> old.</summary>
    public string? Trouble()
    {
        lock (_lock)
        {
            var now = clock.GetElapsedTime(_since);
            if (_last is not { } last || now - last.At >= Life)
                _last = last = (now, Try());
            return last.Trouble;
        }
    }

    private string? Try()
    {
        try
        {
            // Room is taken as a write would take it, with the quotas and reserves that hold for this user, and given back.
            using var room = new FileStream(Path.Combine(folder, "room.probe"), new FileStreamOptions
            {
                Mode = FileMode.Create,
                Access = FileAccess.Write,
                Options = FileOptions.DeleteOnClose,
                PreallocationSize = Room,
            });
            return null;
        }
        catch (Exception full) when (full is IOException or UnauthorizedAccessException)
        {
            return $"Nothing more can be stored in {folder}: {full.Message.TrimEnd('.')}. Free some room on its disk.";
        }
    }
}
