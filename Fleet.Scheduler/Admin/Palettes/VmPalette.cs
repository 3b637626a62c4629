using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Projection;
using Fleet.Shared.Admin;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>MicroVMs, and what happened to them.</summary>
internal sealed class VmPalette : Palette
{
    /// <summary>A microVM by its id or name.</summary>
    public static readonly ArgumentDefinition Vm = new("vm", "Id or name of the microVM", ["-i", "--vm"]) { Mandatory = true, Bare = true };

    public VmPalette() : base("vm", "MicroVMs, and what happened to them")
    {
        Add("list", "List microVMs in the order they were created", ListAsync,
            new ArgumentDefinition("state", "Only those in this state", ["-s", "--state"]) { Choices = [.. BodyMapping.StateNames] },
            new ArgumentDefinition("host", "Only those on this host", ["-o", "--host"]),
            Most("microVMs", 1000, 100));
        Add("show", "Show a microVM, as its actor knows it", ShowAsync, Vm);
        Add("events", "List what the journal has of a microVM, the newest last", EventsAsync, Vm, Most("events", 1000, 50));
    }

    /// <summary>The microVM that the command names, as its actor knows it.</summary>
    public static async Task<VmRecord> FindAsync(CommandCall call)
    {
        var id = VmNames.Resolve(call.Node.Api.Claims, call.Get(Vm.Name));
        return await call.Node.Api.Gate.VmAsync(c => call.Node.Api.Gate.Cell.GetVmAsync(id, c), call.Cancellation);
    }

    private static async Task ListAsync(CommandCall call)
    {
        await call.Node.Api.FreshViewAsync(call.Cancellation);
        VmState[] states = call.Find("state") is { } state ? [BodyMapping.StateOf(state)!.Value] : [];
        var page = call.Node.Api.Projection.Reader.ListVms(new VmFilter(states, call.Find("host"), []), "", call.Number("most"));
        var rows = page.Items.Select(vm => new object?[]
        {
            vm.Id, vm.Spec.Name, BodyMapping.Name(vm.State), vm.Host, vm.Epoch, vm.Spec.Cpus, vm.Spec.MemoryMib, vm.Driver, vm.Reason?.Code,
        }).ToList();
        await call.Output.TableAsync(["vm", "name", "state", "host", "epoch", "cpus", "mib", "driver", "reason"], rows, "There are none.");
        if (page.NextAfter is not null)
            await call.Output.SayAsync("… and more; ask for more with -n.");
    }

    private static async Task ShowAsync(CommandCall call)
    {
        var vm = await FindAsync(call);
        await call.Output.SheetAsync(
            ("vm", vm.Id), ("name", vm.Spec.Name), ("state", BodyMapping.Name(vm.State)), ("reason", vm.Reason?.Code), ("detail", vm.Reason?.Message),
            ("host", vm.Host), ("epoch", vm.Epoch), ("driver", vm.Driver), ("vmm_pid", vm.VmmPid == 0 ? null : vm.VmmPid),
            ("cpus", vm.Spec.Cpus), ("memory_mib", vm.Spec.MemoryMib), ("restart", vm.Spec.Restart), ("restarts", vm.Restarts), ("exit_status", vm.Exit?.Status),
            ("created_at", vm.CreatedAt?.ToDateTimeOffset()), ("changed_at", vm.ChangedAt?.ToDateTimeOffset()), ("version", vm.Version));
    }

    private static async Task EventsAsync(CommandCall call)
    {
        var vm = await FindAsync(call);
        var most = call.Number("most");
        // A microVM's version is the number of its events.
        var after = (long)vm.Version - most;
        var rows = new List<object?[]>();
        await foreach (var stored in call.Node.Events.ReadOneAsync(PersistenceIds.Vm(vm.Id), Math.Max(0, after), most, call.Cancellation))
            rows.Add([stored.SequenceNr, At(stored.Event), stored.Event.Descriptor.Name, Detail(stored.Event)]);
        await call.Output.TableAsync(["event", "at", "what", "detail"], rows, "The journal has none.");
        if (after > 0)
            await call.Output.SayAsync($"{after} earlier ones are left out.");
    }

    private static DateTimeOffset? At(IMessage stored) =>
        stored.Descriptor.FindFieldByName("at")?.Accessor.GetValue(stored) is Timestamp at ? at.ToDateTimeOffset() : null;

    /// <summary>What the event says beside its time. Never its spec: the environment in it may hold secrets.</summary>
    private static string Detail(IMessage stored) => string.Join(", ", stored.Descriptor.Fields.InFieldNumberOrder()
        .Where(field => field.Name is not ("at" or "id" or "spec") && (!field.HasPresence || field.Accessor.HasValue(stored)))
        .Select(field => (field.Name, Value: field.Accessor.GetValue(stored)))
        .Where(field => field.Value is not System.Collections.ICollection { Count: 0 })
        .Select(field => field.Value is Reason reason ? $"{reason.Code}: {reason.Message}" : $"{field.Name} {field.Value}"));
}
