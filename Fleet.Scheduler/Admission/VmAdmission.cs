using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Admission;

/// <summary>
/// Creates microVMs under names that are unique and keys that count once. First the claim is on disk, under an id chosen
/// beforehand; then the cell creates that id. A process that ends between the two leaves a claim without a microVM:
/// a repeat with the same key drives the same id again, and a create without one takes an abandoned name over.
/// </summary>
internal sealed class VmAdmission(CellGate cell, ClaimStore claims, TimeProvider clock)
{
    /// <summary>
    /// A creation that reaches its actor later than this after its claim is refused: the claim may count as abandoned by then, and another
    /// microVM may have the name.
    /// </summary>
    public static readonly TimeSpan CreateWithin = TimeSpan.FromSeconds(15);

    // Each round meets another holder of the name, or another made-up name that is taken.
    private const int Rounds = 4;

    /// <summary>Creates a microVM, or answers with the one that the same key created before: as it was when it was made.</summary>
    /// <param name="wanted">The spec, given the name to take when the user chose none.</param>
    /// <param name="named">Whether the user chose the name.</param>
    /// <param name="key">The Idempotency-Key, if there is one.</param>
    /// <param name="bodyHash">What tells one body from another under the same key.</param>
    /// <param name="cancellation">Ends the wait, not the creation.</param>
    /// <exception cref="RequestRefused">A rule is broken, the name is taken, the key was used otherwise, or the cell does not answer.</exception>
    public async Task<VmRecord> CreateAsync(Func<string, VmSpec> wanted, bool named, string? key, byte[] bodyHash, CancellationToken cancellation)
    {
        for (var round = 0; round < Rounds; round++)
        {
            var vmId = VmId.New(clock);
            var spec = wanted(VmId.NameFor(vmId));
            if (VmSpecRules.FirstProblem(spec) is { } problem)
                throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
            // Before anything is claimed: a repeat of the same key that comes meanwhile may create it. What that key created before is answered, room or not.
            // Of a gang before its first member, for all of them: there is none yet.
            if (round == 0 && spec is { RefuseWaiting: true, Gang: null or { Index: 0 } } && (key is null || !await AskAsync(() => claims.KnowsAsync(key))))
                await RequireRoomAsync(spec, cancellation);
            var notAfter = clock.GetUtcNow() + CreateWithin;
            switch (await ClaimAsync(new(vmId, VmNames.Claimed(spec.Name, spec.Tenant), key, bodyHash)))
            {
                case Claim.Granted:
                    return await DriveAsync(vmId, spec, notAfter, isNew: true, cancellation);
                case Claim.Repeated repeated:
                    return await DriveAsync(repeated.VmId, wanted(VmId.NameFor(repeated.VmId)), notAfter, isNew: false, cancellation);
                case Claim.KeyReused:
                    throw new RequestRefused(ErrorCodes.IdempotencyKeyReused,
                        "This Idempotency-Key came before with another body. Send the same body again, or choose another key.");
                case Claim.NameHeld held:
                    if (!await FreeAsync(held, cancellation) && named)
                        throw new RequestRefused(ErrorCodes.NameTaken,
                            $"The name {spec.Name} belongs to the microVM {held.VmId}. Choose another, or delete that one first.", "name");
                    break;
            }
        }
        throw RequestRefused.Unavailable("The name changes hands too quickly. Try again.");
    }

    private async Task<VmRecord> DriveAsync(string vmId, VmSpec spec, DateTimeOffset notAfter, bool isNew, CancellationToken cancellation)
    {
        try
        {
            var answer = await cell.CallAsync(c => cell.Cell.CreateVmAsync(vmId, spec, c, notAfter), CellGate.Patience, cancellation);
            // A repeat may come when the microVM is deleted already; its answer is still the first one.
            if (answer.Problem is { } problem && answer.Vm is not { State: VmState.Deleted })
            {
                if (isNew && problem.Code != ErrorCodes.Unavailable)
                    await claims.WithdrawAsync(vmId);
                throw RequestRefused.From(problem);
            }
            cell.Note(answer.Vm!);
            return AsCreated(answer.Vm!);
        }
        finally
        {
            claims.Driven(vmId);
        }
    }

    /// <summary>As far as this node knows: should room that there is be gone by the time its actor looks for some, the microVM fails by itself.</summary>
    private async Task RequireRoomAsync(VmSpec spec, CancellationToken cancellation)
    {
        var review = await cell.CallAsync(c => cell.Cell.ReviewPlacementAsync(spec, c, briefly: true), CellGate.Patience, cancellation);
        if (review.Reason is not { } reason)
            return;
        throw review.IsEarly
            ? RequestRefused.Unavailable("This node has started a moment ago and may not know every host yet. Try again in half a minute.")
            : new RequestRefused(ErrorCodes.NoCapacity, reason.Message);
    }

    /// <summary>Frees the name when its holder is gone or never came to be.</summary>
    private async Task<bool> FreeAsync(Claim.NameHeld held, CancellationToken cancellation)
    {
        var answer = await cell.CallAsync(c => cell.Cell.GetVmAsync(held.VmId, c), CellGate.Patience, cancellation);
        if (answer.Vm is { State: VmState.Deleted })
        {
            await claims.ReleaseNamesAsync([held.VmId]);
            return true;
        }
        if (answer.Problem is null)
            return false;
        if (answer.Problem.Code != ErrorCodes.NotFound)
            throw RequestRefused.From(answer.Problem);
        // The question went the same way as a creation would, behind it: whatever this node sent before has been dealt with.
        return held.Age >= claims.AbandonedAfter && await claims.WithdrawAbandonedAsync(held.VmId, held.Since);
    }

    private Task<Claim> ClaimAsync(ClaimRequest request) => AskAsync(() => claims.ClaimAsync(request), claims.Abandon);

    private async Task<T> AskAsync<T>(Func<Task<T>> ask, Action<Task<T>>? abandon = null)
    {
        Task<T>? asking = null;
        try
        {
            asking = ask();
            return await asking.WaitAsync(CellGate.Patience, clock);
        }
        catch (ClaimsBusyException busy)
        {
            throw RequestRefused.Unavailable(busy.Message, busy);
        }
        catch (Exception fault) when (RequestRefused.IsDatabaseAway(fault))
        {
            if (asking is not null)
                abandon?.Invoke(asking);
            throw RequestRefused.DatabaseAway(fault);
        }
    }

    // A repeat gets the very answer that the first request got, whatever has become of the microVM since.
    private static VmRecord AsCreated(VmRecord vm) => new()
    {
        Id = vm.Id,
        Spec = vm.Spec,
        State = VmState.Pending,
        CreatedAt = vm.CreatedAt,
        ChangedAt = vm.CreatedAt,
        Version = 1,
    };
}
