using CsCheck;
using Fleet.Chaos.Faults;
using Xunit;

namespace Fleet.Chaos.Tests.Faults;

public sealed class ScheduleTests
{
    private static readonly Gen<(ulong Seed, ScheduleOptions Options)> Any = Gen.Select(
        Gen.ULong, Gen.Int[0, 1], Gen.Int[1, 6], Gen.Bool, Gen.Int[6, 20],
        (seed, cluster, hosts, database, lease) => (seed, new ScheduleOptions
        {
            Schedulers = 1 + (2 * cluster),
            Hosts = hosts,
            Database = database,
            Length = TimeSpan.FromMinutes(10),
            Lease = TimeSpan.FromSeconds(lease),
        }));

    [Fact]
    public void Should_make_the_same_faults_of_the_same_seed_and_others_of_another() => Any.Sample(
        run =>
        {
            var faults = Schedule.Of(run.Seed, run.Options);
            Assert.Equal(faults, Schedule.Of(run.Seed, run.Options));
            Assert.NotEqual(faults, Schedule.Of(run.Seed + 1, run.Options));
        },
        iter: 50);

    /// <summary>A seed that was told in a report must mean the same for ever.</summary>
    [Fact]
    public void Should_not_change_what_a_seed_means()
    {
        var faults = Schedule.Of(1, new ScheduleOptions { Schedulers = 1, Hosts = 4, Length = TimeSpan.FromSeconds(30), Lease = TimeSpan.FromSeconds(6) });
        Assert.Equal(
            [
                "    8.4 s  Disturb Scheduler 0 for 1.2 s", "   14.5 s  Cut Host 2 for 1.8 s", "   19.4 s  Cordon Host 1 for 1.4 s", "   20.2 s  Kill Scheduler 0 for 1.5 s",
                "   23.6 s  CutHearing Host 0 for 6.4 s", "   26.8 s  HangVmm Host 3 for 2.6 s",
            ],
            faults.Select(fault => fault.ToString()));
    }

    [Fact]
    public void Should_heal_everything_by_the_end_and_leave_room() => Any.Sample(
        run =>
        {
            var (_, options) = run;
            var faults = Schedule.Of(run.Seed, options);
            Assert.InRange(faults.Count, 10, 200);
            Assert.All(faults, fault => Assert.True(fault.At > TimeSpan.Zero && fault.Lasts > TimeSpan.Zero && fault.Ends <= options.Length, $"{fault}"));
            foreach (var fault in faults)
            {
                var during = faults.Where(other => other.At <= fault.At && other.Ends > fault.At).ToList();
                Assert.Single(during, other => other.Role == fault.Role && other.Index == fault.Index);
                Assert.InRange(during.Count(other => other.Role == Role.Host), 0, Math.Max(1, options.Hosts - 2));
                Assert.InRange(during.Count(other => other.Role == Role.Scheduler), 0, Math.Max(1, (options.Schedulers - 1) / 2));
            }
        },
        iter: 50);

    [Fact]
    public void Should_come_to_every_kind_of_fault_in_time()
    {
        var cluster = new ScheduleOptions { Schedulers = 3, Hosts = 5, Database = true, Length = TimeSpan.FromHours(1), Lease = TimeSpan.FromSeconds(6) };
        Assert.Equal(Enum.GetValues<FaultKind>(), Schedule.Of(7, cluster).Select(fault => fault.Kind).Distinct().Order());
        var hosts = Schedule.Of(7, cluster).Where(fault => fault.Role == Role.Host && fault.Kind == FaultKind.Cut).ToList();
        Assert.Contains(hosts, fault => fault.Lasts > cluster.Lease);
        Assert.Contains(hosts, fault => fault.Lasts < cluster.Lease / 2);
        Assert.Contains(Schedule.Of(7, cluster), fault => fault is { Kind: FaultKind.DiskFull, Role: Role.Host });
        var alone = Schedule.Of(7, cluster with { Schedulers = 1, Database = false });
        Assert.Contains(alone, fault => fault is { Kind: FaultKind.DiskFull, Role: Role.Scheduler });
        // There is no database, and no other scheduler that reaches the host.
        Assert.DoesNotContain(alone, fault => fault.Kind is FaultKind.CutDatabase or FaultKind.CutOne);
    }
}
