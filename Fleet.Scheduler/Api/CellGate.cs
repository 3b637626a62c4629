using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Projection;

namespace Fleet.Scheduler.Api;

/// <summary>
/// The way from a request to the actors: every call has an end, and a refusal of the cell becomes the API's. What the
/// cell tells of a microVM is noted, so that the lists that follow show it.
/// </summary>
internal sealed class CellGate(ICell cell, Freshness freshness, TimeProvider clock)
{
    /// <summary>Longest that an answer may take: longer than a shard needs to move, shorter than a person waits.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    public ICell Cell { get; } = cell;

    /// <summary>The microVM that a call answers with.</summary>
    /// <exception cref="RequestRefused">The cell refused, or did not answer in time.</exception>
    public async Task<VmRecord> VmAsync(Func<CancellationToken, Task<VmAnswer>> call, CancellationToken cancellation, TimeSpan extra = default)
    {
        var answer = await CallAsync(call, Patience + extra, cancellation);
        if (answer.Problem is { } problem)
            throw RequestRefused.From(problem);
        Note(answer.Vm!);
        return answer.Vm!;
    }

    /// <summary>A client is told of this state of a microVM: lists that follow show it.</summary>
    public void Note(VmRecord vm) => freshness.Told(PersistenceIds.Vm(vm.Id), vm.Version);

    /// <summary>The host that a call answers with.</summary>
    /// <exception cref="RequestRefused">The cell refused, or did not answer in time.</exception>
    public async Task<HostRecord> HostAsync(Func<CancellationToken, Task<HostAnswer>> call, CancellationToken cancellation)
    {
        var answer = await CallAsync(call, Patience, cancellation);
        if (answer.Problem is { } problem)
            throw RequestRefused.From(problem);
        freshness.Told(PersistenceIds.Host(answer.Host!.Id), answer.Host.Version);
        return answer.Host;
    }

    /// <summary>Any call, bounded in time.</summary>
    /// <exception cref="RequestRefused">The cell refused, or did not answer in time.</exception>
    public async Task<T> CallAsync<T>(Func<CancellationToken, Task<T>> call, TimeSpan patience, CancellationToken cancellation)
    {
        using var timer = new CancellationTokenSource(patience, clock);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(timer.Token, cancellation);
        try
        {
            return await call(either.Token).WaitAsync(either.Token);
        }
        catch (CellException refused)
        {
            throw new RequestRefused(refused.Code, refused.Message, inner: refused);
        }
        catch (Exception late) when (late is TimeoutException || (late is OperationCanceledException && !cancellation.IsCancellationRequested))
        {
            throw RequestRefused.Unavailable(
                $"The actor in charge did not answer within {patience.TotalSeconds:0} s. The request may still be carried out; a create with the same Idempotency-Key, and everything else, is safe to repeat.", late);
        }
    }
}
