using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Admin;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>Each host's right to run its microVMs, as its actor counts it (docs/fencing.md).</summary>
internal sealed class LeasePalette : Palette
{
    /// <summary>Hosts that are asked at once.</summary>
    private const int AtOnce = 16;

    public LeasePalette() : base("lease", "Each host's right to run its microVMs")
    {
        Add("list", "List the hosts' leases: when granted, how long the host may run on, when it is given up", ListAsync, Most("hosts", 1000, 100));
        Add("show", "Show one host's lease", ShowAsync, new ArgumentDefinition("host", "Id of the host", ["-i", "--host"]) { Mandatory = true, Bare = true });
    }

    private static async Task ListAsync(CommandCall call)
    {
        await call.Node.Api.FreshViewAsync(call.Cancellation);
        var page = call.Node.Api.Projection.Reader.ListHosts("", call.Number("most"));
        var rows = new object?[page.Items.Count][];
        await Parallel.ForAsync(0, rows.Length, new ParallelOptions { MaxDegreeOfParallelism = AtOnce, CancellationToken = call.Cancellation }, async (at, cancellation) =>
        {
            var id = page.Items[at].Id;
            try
            {
                rows[at] = Row(await call.Node.LedgerAsync(id, 0, cancellation));
            }
            catch (RequestRefused refused)
            {
                // One host whose actor is on its way to another node must not take the list away.
                rows[at] = [id, refused.Code, null, null, null, null, null];
            }
        });
        await call.Output.TableAsync(Columns, rows, "No host has joined.");
        if (page.NextAfter is not null)
            await call.Output.SayAsync("… and more; ask for more with -n.");
    }

    private static async Task ShowAsync(CommandCall call)
    {
        var row = Row(await call.Node.LedgerAsync(call.Get("host"), 0, call.Cancellation));
        await call.Output.SheetAsync([.. Columns.Zip(row, static (name, value) => (name, value))]);
    }

    private static readonly string[] Columns = ["host", "state", "fenced", "lease_s", "granted_s_ago", "left_s", "given_up_in_s"];

    private static object?[] Row(LedgerRead ledger)
    {
        var host = ledger.Host;
        // Of a host that is not fenced, or was given up already, there is nothing to count.
        if (!host.Fenced || host.State is not (HostState.Connected or HostState.Disconnected))
            return [host.Id, BodyMapping.Name(host.State), host.Fenced, null, null, null, null];
        var (lifetime, age) = (ledger.LeaseMs / 1000.0, ledger.LeaseAgeMs / 1000.0);
        return
        [
            host.Id, BodyMapping.Name(host.State), true, lifetime, ledger.LeaseGranted ? Round(age) : null, Round(Math.Max(0, lifetime - age)),
            Round(Math.Max(0, lifetime + (ledger.MarginMs / 1000.0) - age)),
        ];
    }

    private static double Round(double seconds) => Math.Round(seconds, 1);
}
