using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>The latest figures of every rate limiter of this host, until the control plane was told. Not safe for several threads.</summary>
internal sealed class LimiterTable
{
    private readonly Dictionary<(string VmId, string Name), LimiterFigure> _figures = [];
    private bool _untold;

    public void Put(HostAgentActor.LimiterRead read)
    {
        if (read.Reading is not { } reading)
        {
            _untold |= _figures.Remove((read.VmId, read.Name));
            return;
        }

        _figures[(read.VmId, read.Name)] = new LimiterFigure
        {
            VmId = read.VmId,
            Epoch = read.Epoch,
            Name = read.Name,
            InForce = reading.InForce,
            PassedOps = reading.PassedOps,
            PassedBytes = reading.PassedBytes,
            ThrottledCount = reading.ThrottledCount,
            ThrottledUs = reading.ThrottledMicroseconds,
        };
        _untold = true;
    }

    /// <summary>Nothing of that microVM is left.</summary>
    public void Forget(string vmId)
    {
        foreach (var key in _figures.Keys.Where(key => key.VmId == vmId).ToList())
            _untold |= _figures.Remove(key);
    }

    /// <summary>A new stream: nobody knows anything of this host.</summary>
    public void TellAgain() => _untold = _figures.Count > 0;

    /// <summary>What is to be told; null: nothing new.</summary>
    public LimiterFigures? Next() => _untold ? new LimiterFigures { Limiters = { _figures.Values } } : null;

    /// <summary>What <see cref="Next"/> gave is on its way.</summary>
    public void Told() => _untold = false;
}
