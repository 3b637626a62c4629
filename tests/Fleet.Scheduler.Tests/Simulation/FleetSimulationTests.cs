using System.Xml.Linq;
using CsCheck;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Prediction;
using Fleet.Scheduler.Simulation;
using Xunit;

namespace Fleet.Scheduler.Tests.Simulation;

public sealed class FleetSimulationTests
{
    private static ArrivalTrace Trace(params (double At, double Ends, long Cpus, long Memory)[] vms) => new(
        "test",
        [.. vms.Select(vm => new Resources(vm.Cpus, vm.Memory))],
        [.. vms.SelectMany((vm, number) => new TraceEvent[] { new(vm.At, number, true), new(vm.Ends, number, false) }).Where(one => one.At < double.MaxValue).OrderBy(one => one.At).ThenBy(one => one.Comes)],
        [new(4, 4)]);

    private static UsageCurve Curve(double cpu, double memory) =>
        new("flat", [.. Enumerable.Repeat(cpu, UsageCurves.Samples)], [.. Enumerable.Repeat(memory, UsageCurves.Samples)]);

    private static SimulationResult Run(SimulationPlan plan) => FleetSimulation.Run(plan, CancellationToken.None);

    [Fact]
    public void Should_count_who_is_carried_refused_and_how_full_it_gets()
    {
        var trace = Trace((0, 20, 4, 4), (0, double.MaxValue, 2, 2), (10, 30, 4, 4), (20, 40, 4, 2));
        foreach (var policy in PlacementPolicies.Names)
        {
            var result = Run(new(trace, [new(new(4, 4), 2)], policy, 1));
            Assert.Equal((2, 4, 1, 2, 2), (result.Hosts, result.Arrived, result.Refused, result.PlacedBeforeRefusal, result.MostHostsUsed));
            Assert.Equal(0.75, result.CpuPromised, 9);
            Assert.Equal(0.75, result.MemoryPromised, 9);
            Assert.Null(result.CpuUsed);
            Assert.Equal(FleetSimulation.Points, result.Points.Count);
            Assert.Equal((20.0, 0.75, 0.5, 1), (result.Points[^1].At, result.Points[^1].CpuPromised, result.Points[^1].MemoryPromised, result.Points[^1].Refused));
        }
    }

    [Fact]
    public void Should_refuse_more_hosts_than_may_be_simulated_before_it_makes_them()
    {
        var half = new HostShape(new(4, 4), (FleetSimulation.MostHosts / 2) + 1);
        Assert.Equal(TraceException.TooLarge, Assert.Throws<TraceException>(() => Run(new(Trace((0, 20, 4, 4)), [half, half], PlacementPolicies.Engine, 1))).Code);
    }

    [Fact]
    public void Should_tell_how_often_more_is_wanted_than_there_is()
    {
        var trace = Trace((0, double.MaxValue, 4, 4), (0, double.MaxValue, 4, 4), (86_400, double.MaxValue, 1, 1));
        var plan = new SimulationPlan(trace, [new(new(4, 4), 1)], PlacementPolicies.Engine, 1) { CpuRatio = 2, MemoryRatio = 2, Usage = [Curve(0.6, 0.4)] };
        var result = Run(plan);
        Assert.Equal(1, result.Refused);
        Assert.Equal((1.0, 0.0), (result.CpuShort, result.MemoryShort));
        Assert.Equal(1.2, result.CpuUsed!.Value, 6);
        Assert.Equal(0.8, result.MemoryUsed!.Value, 6);
        Assert.Equal(2, result.CpuPromised, 6);
        Assert.Null(Run(plan with { Usage = [Curve(0.6, 0.4) with { Memory = null }] }).MemoryUsed);
    }

    [Fact]
    public void Should_admit_by_what_the_predictors_say()
    {
        var trace = Trace([.. Enumerable.Range(0, 200).Select(i => (i * 600.0, double.MaxValue, 1L, 1L))]);
        var plan = new SimulationPlan(trace, [new(new(10, 10), 1)], PlacementPolicies.Engine, 1) { CpuRatio = 4, MemoryRatio = 4, Usage = [Curve(0.2, 0.2)], Prediction = new() };
        int Placed(SimulationPlan of) => 200 - Run(of).Refused;
        // A tenth is left free.
        Assert.Equal(9, Placed(plan with { Prediction = new() { Cpu = "limit", Memory = "limit" } }));
        Assert.Equal(40, Placed(plan with { Prediction = null }));
        Assert.Equal(5, Placed(plan with { Prediction = new() { Classes = [PredictedClass.Parse("small cpus<=10 cpu=limit memory=limit reserve=0.5", new(), out _)!] } }));
        Assert.InRange(Placed(plan with { Prediction = new() { Classes = [PredictedClass.Parse("large cpus>=11 cpu=limit reserve=0.5", new(), out _)!] } }), 25, 40);
        Assert.InRange(Placed(plan), 25, 40);
        Assert.Equal(0.0, Run(plan).CpuShort);
    }

    /// <summary>A host that nobody was on yet promises what any other empty one does.</summary>
    [Fact]
    public void Should_promise_of_an_untouched_host_no_more_than_predictions_leave()
    {
        var plan = new SimulationPlan(Trace((0, 10, 8, 1024), (20, 30, 4, 1024), (40, 50, 3, 14_746)), [new(new(4, 16_384), 10)], PlacementPolicies.Engine, 1)
        {
            CpuRatio = 4, Usage = [Curve(0.2, 0.2)], Prediction = new(),
        };
        Assert.Equal((3, 3, 0), (Run(plan).Arrived, Run(plan).Refused, Run(plan).MostHostsUsed));
        Assert.Equal(0, Run(plan with { Prediction = null }).Refused);
        Assert.Equal(0, Run(plan with { Trace = Trace((0, 10, 3, 14_745)) }).Refused);
    }

    /// <summary>Whoever places, over random comings and goings: nobody is promised more than there is, nobody gets lost, and the same seed tells the same.</summary>
    [Fact]
    public void Should_keep_to_the_caps_under_every_policy()
    {
        Gen.Int[1, 1_000_000].Sample(seed =>
        {
            var trace = ArrivalTrace.Generate(300, seed);
            foreach (var policy in PlacementPolicies.Names)
            {
                var plan = new SimulationPlan(trace, [new(new(16, 65536), 3), new(new(32, 65536), 2)], policy, seed) { CpuRatio = 1.5 };
                var result = Run(plan);
                Assert.Equal(300, result.Arrived);
                Assert.All(result.Points, point => Assert.True(point is { CpuPromised: >= 0 and <= 1.5, MemoryPromised: >= 0 and <= 1, HostsUsed: <= 5 }));
                Assert.Equal(result.Points, Run(plan).Points);
            }
        }, iter: 10);
    }

    [Fact]
    public void Should_draw_a_line_for_all_that_is_known()
    {
        var plan = new SimulationPlan(ArrivalTrace.Generate(500, 3) with { Name = "a<b&c" }, [new(new(64, 131_072), 2)], PlacementPolicies.Engine, 3);
        var known = Run(plan with { Usage = UsageCurves.Generate(50, 3) });
        var picture = XDocument.Parse(SimulationPicture.Draw([Run(plan), known]));
        var panels = picture.Root!.Elements().Where(one => one.Name.LocalName == "g").ToList();
        Assert.Equal([3, 5], panels.Select(panel => panel.Elements().Count(one => one.Name.LocalName == "polyline")));
        Assert.Contains("a<b&c", panels[0].Value, StringComparison.Ordinal);
        Assert.Contains($"{known.Refused} of 500 refused", panels[1].Value, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_refuse_what_would_never_end()
    {
        var endless = Trace((0, double.MaxValue, 1, 1), (1e12, double.MaxValue, 1, 1));
        var plan = new SimulationPlan(endless, [new(new(4, 4), 1)], PlacementPolicies.Engine, 1);
        Assert.Equal(2, Run(plan).Arrived);
        Assert.Equal(TraceException.TooLarge, Assert.Throws<TraceException>(() => Run(plan with { Usage = [Curve(1, 1)] })).Code);
        using var stopped = new CancellationTokenSource();
        stopped.Cancel();
        Assert.Throws<OperationCanceledException>(() => FleetSimulation.Run(plan, stopped.Token));
    }
}
