using Akka.Actor;
using Fleet.Scheduler.Node;
using Fleet.Scheduler.Projection;
using Fleet.Scheduler.Tests.Cell;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit;

namespace Fleet.Scheduler.Tests.Node;

public sealed class NodeHealthTests
{
    [Fact]
    public async Task A_node_whose_placement_has_ended_is_not_healthy()
    {
        await using var cell = await TestCell.StartAsync();
        await using var projection = new ViewProjection(new(Path.Combine(cell.Folder, "view.db")), cell.System.Events, (_, _) => Task.CompletedTask, TimeProvider.System, NullLogger.Instance);
        await projection.StartAsync(CancellationToken.None);
        var health = new NodeHealth(cell.System, projection, new DiskProbe(cell.Folder, TimeProvider.System));
        await Eventually.TrueAsync(async () => await health.TroubleAsync(CancellationToken.None) is null);
        await cell.System.Placement.GracefulStop(Eventually.Bound);
        Assert.Contains("finds places has ended", await health.TroubleAsync(CancellationToken.None), StringComparison.Ordinal);
    }
}
