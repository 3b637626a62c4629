using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Fleet.Scheduler.Api;

/// <summary>
/// Creates microVMs of which none is placed before all can be. Each is an ordinary one otherwise, with a name, a claim and a key of its own. A process that ends in the
/// middle leaves members that wait for the others: the same key makes the rest, and without them none is ever placed.
/// </summary>
internal sealed class GangEndpoints(ApiContext api)
{
    /// <summary>Members created at the same time: they share their writes.</summary>
    private const int AtOnce = 16;

    public void Map(IEndpointRouteBuilder all) => all.MapGroup("").WithTags("microVMs").MapPost("/v1/gangs", (Delegate)CreateAsync).Describe(
        new("create_gang", "Creates microVMs that are placed all together or not at all")
        {
            Audience = Audience.Tenants,
            Body = typeof(CreateGangBody),
            Headers = [new(Exchange.IdempotencyHeader, "1 to 128 printable characters. The same key with the same body gives the same answer for 24 hours")],
            Status = 201,
            Answer = typeof(GangBody),
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.MissingField, ErrorCodes.NameTaken,
                ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType, ErrorCodes.IdempotencyKeyReused, ErrorCodes.NoCapacity],
        });

    private async Task CreateAsync(HttpContext http)
    {
        _ = new Query(http);
        var key = VmEndpoints.IdempotencyKey(http);
        var body = (await Exchange.ReadJsonAsync(http, ApiJson.Wire.CreateGangBody, optional: false))!;
        var who = Principal.Of(http);
        var (name, size, vm) = Checked(body);
        try
        {
            var owned = await api.WithIdsAsync(VmEndpoints.AsOf(who, vm, api.TenantQemu), http.RequestAborted);
            var hash = SHA256.HashData([.. VmEndpoints.Hash(vm), .. Encoding.UTF8.GetBytes($"{size} {name}")]);
            var members = await MakeAllAsync(name, size, owned, VmEndpoints.Scoped(key, who), hash, http.RequestAborted);
            await Exchange.WriteJsonAsync(http, StatusCodes.Status201Created, new GangBody(members[0].Id, name, [.. members.Select(BodyMapping.ToBody)]), ApiJson.Wire.GangBody);
        }
        catch (RequestRefused refused) when (refused is { Field: not null, Code: ErrorCodes.InvalidField or ErrorCodes.MissingField or ErrorCodes.Forbidden })
        {
            throw new RequestRefused(refused.Code, refused.Message, "vm." + refused.Field, refused);
        }
    }

    private async Task<VmRecord[]> MakeAllAsync(string name, int size, CreateVmBody owned, string? key, byte[] hash, CancellationToken cancellation)
    {
        var members = new VmRecord?[size];
        try
        {
            // The first has the gang's id, and says so by naming none.
            members[0] = await MakeAsync(0, "");
            await Parallel.ForEachAsync(
                Enumerable.Range(1, size - 1),
                new ParallelOptions { MaxDegreeOfParallelism = AtOnce, CancellationToken = cancellation },
                async (index, _) => members[index] = await MakeAsync(index, members[0]!.Id));
            return [.. members.Select(member => member!)];
        }
        catch (Exception fault) when (key is null || fault is RequestRefused { Code: not ErrorCodes.Unavailable })
        {
            // Else the same key makes the rest.
            var answers = await Task.WhenAll(members.OfType<VmRecord>().Select(member => api.Gate.Cell.DeleteVmAsync(member.Id, CancellationToken.None)));
            // The next list knows of it.
            foreach (var answer in answers.Where(answer => answer.Vm is not null))
                api.Gate.Note(answer.Vm!);
            throw;
        }

        // Never called off: whoever is under way may be there, and would be left behind.
        Task<VmRecord> MakeAsync(int index, string gangId) => api.Admission.CreateAsync(
            _ =>
            {
                var spec = BodyMapping.ToSpec(owned, string.Create(CultureInfo.InvariantCulture, $"{name}-{index}"));
                spec.Gang = new Gang { Id = gangId, Name = name, Size = (uint)size, Index = (uint)index };
                return spec;
            },
            named: true,
            key is null ? null : string.Create(CultureInfo.InvariantCulture, $"{key}\n{index}"),
            hash,
            CancellationToken.None);
    }

    private static (string Name, int Size, CreateVmBody Vm) Checked(CreateGangBody body)
    {
        var name = body.Name ?? throw Missing("name");
        var size = body.Size ?? throw Missing("size");
        var vm = body.Vm ?? throw Missing("vm");
        if (name.Length > VmLimits.MaxGangNameLength || !VmSpecRules.IsName(name + "-0"))
            throw new RequestRefused(ErrorCodes.InvalidField, $"name must be 1 to {VmLimits.MaxGangNameLength} of the characters a-z, 0-9 and '-', and begin with a letter or a digit.", "name");
        if (VmSpecRules.Range("size", size, 1, VmLimits.MaxGangSize) is { } problem)
            throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
        if (vm.Name is not null)
            throw new RequestRefused(ErrorCodes.InvalidField, "The members' names are made of the gang's; leave vm.name out.", "vm.name");
        return (name, (int)size, vm);
    }

    private static RequestRefused Missing(string field) => new(ErrorCodes.MissingField, $"A gang needs {field}.", field);
}
