using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Prediction;

/// <summary>Admission by caps and predictor together.</summary>
public sealed class PredictedLedgerTests
{
    private static readonly Inventory Host = new() { Cpus = 8, MemoryMib = 8192 };
    private static readonly CapacityCaps Caps = new(CpuRatio: 3, MemoryRatio: 2);
    private static readonly PredictionTerms Terms = new();
    private static readonly IPeakPredictor Cpu = PredictorSettings.Parse(Terms.Cpu, Fold.P90)!;
    private static readonly IPeakPredictor Memory = PredictorSettings.Parse(Terms.Memory, Fold.Max)!;
    private static readonly PeakUse Room = new(Terms.Cpus(Host), Terms.MemoryMib(Host));

    private static Demand Wanting(uint cpus, ulong memoryMib) => new(cpus, memoryMib, Demand.AutoDriver, OwnKernel: false, Host: "");

    [Fact]
    public void Should_say_what_is_predicted_to_be_short_with_its_numbers()
    {
        var ledger = new CapacityLedger();
        var peak = new PeakForecast(new PeakUse(5.5, 7000.5), Room);
        Assert.Null(ledger.Check(Wanting(1, 372), Host, Caps, peak));
        Assert.Equal(new Rejection { Reason = "cpu_peak", Hosts = 1, Wanted = 2, MostFree = 1 }, ledger.Check(Wanting(2, 1), Host, Caps, peak));
        Assert.Equal(new Rejection { Reason = "memory_peak", Hosts = 1, Wanted = 373, MostFree = 372 }, ledger.Check(Wanting(1, 373), Host, Caps, peak));
        Assert.Equal("cpus", ledger.Check(Wanting(25, 1), Host, Caps, peak)?.Reason);
        Assert.Equal(0UL, ledger.Check(Wanting(1, 1), Host, Caps, new PeakForecast(new PeakUse(99, 1), Room))?.MostFree);
    }

    /// <summary>Those that give way free what is predicted of them, not their limits.</summary>
    [Fact]
    public void Should_have_as_many_give_way_as_the_prediction_needs()
    {
        var (ledger, book) = Filled(20, cpuMillis: 250);
        PeakForecast ForecastOf(IReadOnlyCollection<Reservation> held) => Predicted(book, held, Cpu);
        // Some 0.35 of each, and 7.2 for all.
        Assert.InRange(ForecastOf(ledger.Reservations).Peak.Cpus, 6.9, 7.0);
        var high = Wanting(2, 128) with { Rank = PriorityClass.Rank("high") };
        Assert.Equal("cpu_peak", ledger.Check(high, Host, Caps, ForecastOf(ledger.Reservations))?.Reason);
        var giving = ledger.Preempt(high, "high", Host, Caps, ForecastOf)!;
        Assert.Equal(6, giving.Count);
        Assert.Equal(14, ledger.Preempt(Larger(5), "high", Host, Caps, ForecastOf)!.Count);
        Assert.Null(ledger.Preempt(high with { Rank = PriorityClass.Rank("low") }, "high", Host, Caps, ForecastOf));
        // 17 would have to.
        Assert.Null(ledger.Preempt(Larger(6), "high", Host, Caps, ForecastOf));
        foreach (var held in giving)
            ledger.Apply(new HostPreempted { VmId = held.VmId, Epoch = 1, Cpus = held.Cpus, MemoryMib = held.MemoryMib, ForVmId = "high", ForEpoch = 1 });
        Assert.Null(ledger.Check(high, Host, Caps, ForecastOf(ledger.Reservations)));
        // By their limits, as if nothing were known of them, two are enough.
        var (cold, nothing) = Filled(7, cpuMillis: null);
        Assert.Equal(2, cold.Preempt(high, "high", Host, Caps, held => Predicted(nothing, held, Cpu))!.Count);

        static Demand Larger(uint cpus) => Wanting(cpus, 128) with { Rank = PriorityClass.Rank("high") };
    }

    /// <summary>A host's actor that was recovered takes all for busy; what it then lacks is no newcomer's, and nobody goes for it.</summary>
    [Fact]
    public void Should_have_no_more_give_way_than_the_newcomer_needs_where_too_much_is_predicted_already()
    {
        var (ledger, nothing) = Filled(20, cpuMillis: null);
        PeakForecast ForecastOf(IReadOnlyCollection<Reservation> held) => Predicted(nothing, held, Cpu);
        Assert.Equal(20, ForecastOf(ledger.Reservations).Peak.Cpus);
        Assert.Equal(2, ledger.Preempt(Wanting(2, 128) with { Rank = PriorityClass.Rank("high") }, "high", Host, Caps, ForecastOf)!.Count);
    }

    /// <summary>The larger of two predictions falls by less than each of them would: it is asked again with what is short then.</summary>
    [Fact]
    public void Should_have_enough_give_way_where_the_largest_of_several_predictions_counts()
    {
        // By the first a third of each, by the second half of those of one vCPU alone.
        static PeakForecast ForecastOf(IReadOnlyCollection<Reservation> held) => new(
            new PeakUse(Math.Max(held.Sum(one => one.Cpus) / 3.0, held.Where(one => one.Cpus == 1).Sum(one => one.Cpus) * 0.5), 0), Room);
        var ledger = new CapacityLedger();
        for (var at = 0; at < 13; at++)
            ledger.Apply(new HostReserved { VmId = $"small-{at:d2}", Epoch = 1, Cpus = 1, MemoryMib = 64, Priority = "low" });
        ledger.Apply(new HostReserved { VmId = "large", Epoch = 1, Cpus = 6, MemoryMib = 64, Priority = "low" });
        var high = Wanting(2, 128) with { Rank = PriorityClass.Rank("high") };
        Assert.Equal(6.5, ForecastOf(ledger.Reservations).Peak.Cpus);
        var giving = ledger.Preempt(high, "high", Host, Caps, ForecastOf)!;
        Assert.True(ForecastOf([.. ledger.Reservations.Except(giving)]).HasRoomFor(high));
        Assert.InRange(giving.Count, 3, 5);
    }

    private static PeakForecast Predicted(UsageBook book, IReadOnlyCollection<Reservation> held, IPeakPredictor cpu) => new(book.Predict(held, cpu, Memory, Filling), Room);

    // When all is known that Filled tells.
    private static readonly TimeSpan Filling = TimeSpan.FromHours(3);

    // So many of one vCPU and of the lowest class, and up to then what they used; null: nothing is known.
    private static (CapacityLedger Ledger, UsageBook Book) Filled(int count, uint? cpuMillis)
    {
        var (ledger, book) = (new CapacityLedger(), new UsageBook());
        for (var at = 0; at < count; at++)
            ledger.Apply(new HostReserved { VmId = $"vm-{at:d2}", Epoch = 1, Cpus = 1, MemoryMib = 64, Priority = "low" });
        var sequence = 0UL;
        // A whole number of slots, the first two hours of which are the warm-up.
        for (var at = TimeSpan.FromMinutes(55); cpuMillis is { } used && at < Filling; at += TimeSpan.FromSeconds(10))
        {
            var sample = new UsageSample { Sequence = ++sequence };
            foreach (var one in ledger.Reservations)
                sample.Vms.Add(new VmUse { VmId = one.VmId, Epoch = 1, CpuMillis = used, MemoryKib = 32 * 1024 });
            book.Take(sample, ledger.Reservations, at);
        }
        return (ledger, book);
    }

    /// <summary>
    /// Over long histories of reservations, ends, samples that are missing, repeated or absurd, and hours that pass: the sum of limits is within
    /// the caps and is that of the microVMs; a newcomer is admitted only beside what is predicted; without history nothing is oversubscribed.
    /// </summary>
    [Fact]
    public void Should_never_admit_beyond_caps_nor_beyond_what_is_predicted() =>
        Gen.Select(Gen.Int[0, 11], Gen.Int[0, 9], Gen.UInt[1, 8], Gen.ULong[1, 4096]).Array[0, 400].Sample(
            steps =>
            {
                var ledger = new CapacityLedger();
                var book = new UsageBook();
                var now = TimeSpan.FromHours(1);
                var sampled = TimeSpan.Zero;
                ulong sequence = 0;
                foreach (var (vm, what, cpus, memory) in steps)
                {
                    var id = $"vm-{vm}";
                    var held = ledger.Find(id, 1);
                    switch (what)
                    {
                        case <= 4 when held is null:
                            var forecast = new PeakForecast(book.Predict(ledger.Reservations, Cpu, Memory, now), Room);
                            if (ledger.Check(Wanting(cpus, memory), Host, Caps, forecast) is not null)
                                break;
                            Assert.True(forecast.Peak.Cpus + cpus <= Room.Cpus + 1e-6 && forecast.Peak.MemoryMib + memory <= Room.MemoryMib + 1e-6);
                            ledger.Apply(new HostReserved { VmId = id, Epoch = 1, Cpus = cpus, MemoryMib = memory });
                            break;
                        case 5 when held is { Vacated: false }:
                            ledger.Apply(new HostVacated { VmId = id, Epoch = 1, Cpus = held.Cpus, MemoryMib = held.MemoryMib });
                            break;
                        case 6 when held is not null:
                            ledger.Apply(new HostReleased { VmId = id, Epoch = 1, WasReserved = !held.Vacated });
                            break;
                        case 7:
                            // Three hours of samples, some of them lost, some twice, some absurd.
                            for (var i = 0; i < 3 * 360; i++, now += TimeSpan.FromSeconds(10))
                            {
                                var sample = new UsageSample { Sequence = i % 7 == 0 ? sequence : ++sequence, AgeMs = (uint)(i % 5) };
                                foreach (var one in ledger.Reservations.Where(one => i % 11 != 0 || one.Cpus > 2))
                                    sample.Vms.Add(new VmUse { VmId = one.VmId, Epoch = 1, CpuMillis = i % 501 == 0 ? uint.MaxValue : cpus * 50, MemoryKib = memory * 100 });
                                book.Take(sample, ledger.Reservations, now);
                            }
                            sampled = now;
                            break;
                        case 8:
                            now += TimeSpan.FromHours(cpus);
                            break;
                    }
                    var promised = ledger.Reservations.Where(one => !one.Vacated).ToList();
                    Assert.Equal((ulong)promised.Sum(one => one.Cpus), ledger.ReservedCpus);
                    Assert.Equal((ulong)promised.Sum(one => (long)one.MemoryMib), ledger.ReservedMemoryMib);
                    Assert.InRange(ledger.ReservedCpus, 0UL, Caps.Cpus(Host));
                    Assert.InRange(ledger.ReservedMemoryMib, 0UL, Caps.MemoryMib(Host));
                    var peak = book.Predict(ledger.Reservations, Cpu, Memory, now);
                    Assert.InRange(peak.Cpus, 0, ledger.ReservedCpus + 1e-6);
                    Assert.InRange(peak.MemoryMib, 0, ledger.ReservedMemoryMib + 1e-6);
                    if (now - sampled >= TimeSpan.FromHours(1))
                        Assert.Equal((ledger.ReservedCpus, ledger.ReservedMemoryMib), ((ulong)peak.Cpus, (ulong)peak.MemoryMib));
                }
            },
            iter: 60);
}
