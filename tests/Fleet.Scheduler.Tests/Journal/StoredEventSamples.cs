using Akka.Actor;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

/// <summary>
/// What released versions have written. A line here is never changed: it must be read for ever. A new event, or a new field of one, gets a new line.
/// </summary>
public sealed class StoredEventSamples : IDisposable
{
    private readonly ActorSystem _system = ActorSystem.Create("samples");

    public void Dispose() => _system.Terminate().Wait(TimeSpan.FromSeconds(10));

    private static readonly Timestamp At = Timestamp.FromDateTimeOffset(new DateTimeOffset(2026, 11, 23, 12, 0, 3, 120, TimeSpan.Zero));
    private static readonly RateLimit Limit = new()
    {
        Bandwidth = new TokenBucket { Size = 65536, RefillTimeMs = 1000, OneTimeBurst = 4096 },
        Ops = new TokenBucket { Size = 10, RefillTimeMs = 100 },
    };

    private static readonly Reason Why = new() { Code = "no_capacity", Message = "why" };

    private static readonly (string Manifest, IMessage Event, string Hex)[] Samples =
    [
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = Spec() }, 
            "0a0b08c3d590d80610809c9c391204766d2d311a650a0568656c6c6f10021880022202736822022d6322066578697420372a060a014112016232046175746f3a0f0a022f6b12022f691a05717569657440784a0b0a0474696572120377656252077261636b312d375a100805100618072208766d6d5f64696573"),
        ("vm-placed", new VmPlaced { At = At, Host = "rack1-7", Epoch = 3 }, 
            "0a0b08c3d590d80610809c9c3912077261636b312d371803"),
        ("vm-unplaced", new VmUnplaced { At = At, Reason = Why }, 
            "0a0b08c3d590d80610809c9c3912120a0b6e6f5f63617061636974791203776879"),
        ("vm-running", new VmRunning { At = At, Epoch = 3, Driver = "qemu", VmmPid = 4711 }, 
            "0a0b08c3d590d80610809c9c3910031a0471656d7520e724"),
        ("vm-delayed", new VmDelayed { At = At, Reason = Why }, 
            "0a0b08c3d590d80610809c9c3912120a0b6e6f5f63617061636974791203776879"),
        ("vm-stop-requested", new VmStopRequested { At = At, GraceMs = 10_000 }, 
            "0a0b08c3d590d80610809c9c3910904e"),
        ("vm-ended", new VmEnded { At = At, Epoch = 3, Exit = new GuestExit { Status = 7 }, Reason = Why }, 
            "0a0b08c3d590d80610809c9c3910031a02080722120a0b6e6f5f63617061636974791203776879"),
        ("vm-failed", new VmFailed { At = At, Epoch = 3, Reason = Why }, 
            "0a0b08c3d590d80610809c9c3910031a120a0b6e6f5f63617061636974791203776879"),
        ("vm-start-requested", new VmStartRequested { At = At }, 
            "0a0b08c3d590d80610809c9c39"),
        ("vm-delete-requested", new VmDeleteRequested { At = At }, 
            "0a0b08c3d590d80610809c9c39"),
        ("vm-deleted", new VmDeleted { At = At }, 
            "0a0b08c3d590d80610809c9c39"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", RateLimits = { ["entropy"] = Limit } } },
            "0a0b08c3d590d80610809c9c391204766d2d311a260a0568656c6c6f621d0a07656e74726f707912120a0a0880800410e8071880201204080a1064"),
        ("vm-running", new VmRunning { At = At, Epoch = 3, Driver = "kvm", VmmPid = 4711, LimitsRevision = 2 },
            "0a0b08c3d590d80610809c9c3910031a036b766d20e7242802"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", Network = "tenant", Ports = { new PublishedPort { Host = 8080, Guest = 80, Protocol = "tcp" } } } },
            "0a0b08c3d590d80610809c9c391204766d2d311a1d0a0568656c6c6fba030674656e616e74c2030a08903f10501a03746370"),
        ("vm-running", new VmRunning { At = At, Epoch = 3, Driver = "kvm", VmmPid = 4711, Addresses = new NetworkAddresses { Ipv4 = "10.144.0.2", Ipv6 = "fd00::2" } },
            "0a0b08c3d590d80610809c9c3910031a036b766d20e724ba03150a0a31302e3134342e302e321207666430303a3a32"),
        ("vm-limits-changed", new VmLimitsChanged { At = At, RateLimits = { ["entropy"] = Limit } },
            "0a0b08c3d590d80610809c9c39121d0a07656e74726f707912120a0a0880800410e8071880201204080a1064"),
        ("vm-limits-in-force", new VmLimitsInForce { At = At, Revision = 2 },
            "0a0b08c3d590d80610809c9c391002"),
        ("host-connected", new HostConnected { At = At, Id = "rack1-7", Inventory = Inventory(), AgentVersion = "0.1.0", BootId = "b00t" }, 
            "0a0b08c3d590d80610809c9c3912077261636b312d371a3b08041080401a140a0471656d7510011a0851454d5520372e322001220471656d752a05362e312e3032067838365f36343a090a047261636b1201312205302e312e302a0462303074"),
        ("host-disconnected", new HostDisconnected { At = At, Detail = "cut" }, 
            "0a0b08c3d590d80610809c9c391203637574"),
        ("host-reserved", new HostReserved { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256 }, 
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002"),
        ("host-reserved", new HostReserved { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Volumes = { "acme/data" }, Other = Other(), VolumeMib = { 64 } },
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002e2030961636d652f64617461b20906086410321805ba090140"),
        ("host-vacated", new HostVacated { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Other = Other() },
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002b20906086410321805"),
        ("host-released", new HostReleased { At = At, VmId = "vm-1", Epoch = 3, WasReserved = true, Cpus = 2, MemoryMib = 256, Other = Other() },
            "0a0b08c3d590d80610809c9c391204766d2d31180320012802308002b20906086410321805"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", DiskMib = 100, NetworkMbit = 50, Iops = 5, Architecture = "x86_64", MinKernel = "6.1", CpuTemplate = "t2", RefuseWaiting = true } },
            "0a0b08c3d590d80610809c9c391204766d2d311a270a0568656c6c6fb00964b80932c00905ca09067838365f3634d20903362e31da09027432e00901"),
        ("host-connected", new HostConnected { At = At, Id = "rack1-7", Inventory = new Inventory { Cpus = 4, DiskMib = 100, NetworkMbit = 0, Iops = 5, CpuTemplates = { "t2" }, Volumes = { new HeldVolume { Tenant = "acme", Name = "data", SizeMib = 64 } } } },
            "0a0b08c3d590d80610809c9c3912077261636b312d371a210804b00964b80900c00905ca09027432d2090e0a0461636d651204646174611840"),
        ("host-vacated", new HostVacated { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256 }, 
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002"),
        ("host-released", new HostReleased { At = At, VmId = "vm-1", Epoch = 3, WasReserved = true, Cpus = 2, MemoryMib = 256 }, 
            "0a0b08c3d590d80610809c9c391204766d2d31180320012802308002"),
        ("vm-lost", new VmLost { At = At, Epoch = 3, Reason = Why },
            "0a0b08c3d590d80610809c9c3910031a120a0b6e6f5f63617061636974791203776879"),
        ("host-connected", new HostConnected { At = At, Id = "rack1-7", Fenced = true },
            "0a0b08c3d590d80610809c9c3912077261636b312d373001"),
        ("host-connected", new HostConnected { At = At, Id = "rack1-7", Pressure = new PressureReport { Cpu = PressureRung.Calm, Memory = PressureRung.Closed, Why = "short" } },
            "0a0b08c3d590d80610809c9c3912077261636b312d37820a0b080110021a0573686f7274"),
        ("vm-restarted", new VmRestarted { At = At },
            "0a0b08c3d590d80610809c9c39"),
        ("host-silence-handed", new HostSilenceHanded { At = At, SilentMs = 12_000 },
            "0a0b08c3d590d80610809c9c3910e05d"),
        ("host-cordoned", new HostCordoned { At = At },
            "0a0b08c3d590d80610809c9c39"),
        ("host-uncordoned", new HostUncordoned { At = At },
            "0a0b08c3d590d80610809c9c39"),
        ("vm-launch-failed", new VmLaunchFailed { At = At, Host = "rack1-7", Epoch = 3, Reason = Why },
            "0a0b08c3d590d80610809c9c3912077261636b312d37180322120a0b6e6f5f63617061636974791203776879"),
        ("host-quarantined", new HostQuarantined { At = At, Reason = Why, RetryAt = At },
            "0a0b08c3d590d80610809c9c3912120a0b6e6f5f636170616369747912037768791a0b08c3d590d80610809c9c39"),
        ("host-quarantine-lifted", new HostQuarantineLifted { At = At },
            "0a0b08c3d590d80610809c9c39"),
        ("vm-move-began", new VmMoveBegan { At = At, Host = "rack1-7", Epoch = 3, GraceMs = 10_000 },
            "0a0b08c3d590d80610809c9c3912077261636b312d37180320904e"),
        ("vm-move-began", new VmMoveBegan { At = At, Host = "rack1-7", Epoch = 3, GraceMs = 10_000, Pressed = true },
            "0a0b08c3d590d80610809c9c3912077261636b312d37180320904ec00201"),
        ("vm-moved", new VmMoved { At = At, Host = "rack1-7", Epoch = 3 },
            "0a0b08c3d590d80610809c9c3912077261636b312d371803"),
        ("host-drain-began", new HostDrainBegan { At = At, Deadline = At, GraceMs = 10_000 },
            "0a0b08c3d590d80610809c9c39120b08c3d590d80610809c9c3918904e"),
        ("host-drain-done", new HostDrainDone { At = At },
            "0a0b08c3d590d80610809c9c39"),
        ("host-lost", new HostLost { At = At, Detail = "gone" },
            "0a0b08c3d590d80610809c9c391204676f6e65"),
        ("host-removed", new HostRemoved { At = At }, 
            "0a0b08c3d590d80610809c9c39"),
        ("host-pressure-changed", new HostPressureChanged { At = At, Pressure = new PressureReport { Cpu = PressureRung.Closed, Memory = PressureRung.Calm, Why = "x" } },
            "0a0b08c3d590d80610809c9c391207080210011a0178"),
        ("host-enrolled", new HostEnrolled { At = At, Id = "rack1-7", KeyHash = ByteString.CopyFrom(1, 2, 3) },
            "0a0b08c3d590d80610809c9c3912077261636b312d371a03010203"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", Tenant = "acme" } },
            "0a0b08c3d590d80610809c9c391204766d2d311a0e0a0568656c6c6ff2010461636d65"),
        ("token-created", new TokenCreated { At = At, Token = Token() },
            "0a0b08c3d590d80610809c9c39125d0a0c30313233343536373839616210041a03010203220461636d652a077261636b312d37320243493a0b08c3d590d80610809c9c39420b08c3d590d80610809c9c394a0b08c3d590d80610809c9c39520c626139383736353433323130"),
        ("token-revoked", new TokenRevoked { At = At, Id = "0123456789ab", By = "ba9876543210" },
            "0a0b08c3d590d80610809c9c39120c3031323334353637383961621a0c626139383736353433323130"),
        ("tokens-kept", new TokensKept { At = At, Tokens = { Token() } },
            "0a0b08c3d590d80610809c9c39125d0a0c30313233343536373839616210041a03010203220461636d652a077261636b312d37320243493a0b08c3d590d80610809c9c39420b08c3d590d80610809c9c394a0b08c3d590d80610809c9c39520c626139383736353433323130"),
        ("host-snapshot", new HostSnapshot { Record = Record(), Entries = { new LedgerEntry { VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Vacated = true } } }, 
            "0a720a077261636b312d3710011a3b08041080401a140a0471656d7510011a0851454d5520372e322001220471656d752a05362e312e3032067838365f36343a090a047261636b120131200228800230013a05302e312e30420b08c3d590d80610809c9c394a0b08c3d590d80610809c9c395009120f0a04766d2d31100318022080022801"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", Placement = Wishes() } },
            "0a0b08c3d590d80610809c9c391204766d2d311a300a0568656c6c6fd202260a03776562120e0a0264621204686f7374180120011a0f0a0377656212047a6f6e6518022001"),
        ("host-reserved", new HostReserved { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Groups = { "acme/web" } },
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002320861636d652f776562"),
        ("host-snapshot", new HostSnapshot { Entries = { new LedgerEntry { VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Groups = { "acme/web" } } } },
            "12170a04766d2d31100318022080023a0861636d652f776562"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", Priority = "low" } },
            "0a0b08c3d590d80610809c9c391204766d2d311a0d0a0568656c6c6fda02036c6f77"),
        ("host-reserved", new HostReserved { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Priority = "low", Settled = true },
            "0a0b08c3d590d80610809c9c391204766d2d31180320022880023a036c6f774001"),
        ("host-preempted", new HostPreempted { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, ForVmId = "vm-2", ForEpoch = 4 },
            "0a0b08c3d590d80610809c9c391204766d2d31180320022880023204766d2d323804"),
        ("vm-move-began", new VmMoveBegan { At = At, GraceMs = 10_000, Preempted = true },
            "0a0b08c3d590d80610809c9c3920904e2801"),
        ("host-snapshot", new HostSnapshot { Entries = { new LedgerEntry { VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Priority = "low", Settled = true, ForVmId = "vm-2", ForEpoch = 4 } } },
            "121c0a04766d2d311003180220800242036c6f7748015204766d2d325804"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", Placement = new PlacementWishes { Affinity = { new Affinity { Vm = "vm-2", Within = "host" } } } } },
            "0a0b08c3d590d80610809c9c391204766d2d311a180a0568656c6c6fd2020e120c1204686f73742a04766d2d32"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", Gang = new Gang { Id = "vm-2", Name = "train", Size = 3, Index = 1 } } },
            "0a0b08c3d590d80610809c9c391204766d2d311a1b0a0568656c6c6f8205110a04766d2d321205747261696e18032001"),
        ("gang-placed", new GangPlaced { At = At, Places = { new GangPlace { VmId = "vm-1", Host = "rack1-7", Epoch = 1 } } },
            "0a0b08c3d590d80610809c9c3912110a04766d2d3112077261636b312d371801"),
        ("vm-suspend-requested", new VmSuspendRequested { At = At },
            "0a0b08c3d590d80610809c9c39"),
        ("vm-suspended", new VmSuspended { At = At, Epoch = 3 },
            "0a0b08c3d590d80610809c9c391003"),
        ("vm-suspend-failed", new VmSuspendFailed { At = At, Epoch = 3, Reason = Why },
            "0a0b08c3d590d80610809c9c3910031a120a0b6e6f5f63617061636974791203776879"),
        ("vm-resume-requested", new VmResumeRequested { At = At },
            "0a0b08c3d590d80610809c9c39"),
        ("vm-resume-failed", new VmResumeFailed { At = At, Epoch = 3, Reason = Why },
            "0a0b08c3d590d80610809c9c3910031a120a0b6e6f5f63617061636974791203776879"),
        ("host-vacated", new HostVacated { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Suspended = true },
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002b00401"),
        ("host-vacated", new HostVacated { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Suspended = true, Leaving = true },
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002b00401b80401"),
        ("vm-move-began", new VmMoveBegan { At = At, Host = "rack1-7", Epoch = 3, Address = "h:1" },
            "0a0b08c3d590d80610809c9c3912077261636b312d371803b20403683a31"),
        ("vm-move-began", new VmMoveBegan { At = At, Host = "rack1-7", Epoch = 3, WithoutMemory = Why },
            "0a0b08c3d590d80610809c9c3912077261636b312d371803ba04120a0b6e6f5f63617061636974791203776879"),
        ("vm-move-began", new VmMoveBegan { At = At, Enrolment = 2, ToEnrolment = 3 },
            "0a0b08c3d590d80610809c9c39e80802f00803"),
        ("vm-moved", new VmMoved { At = At, Saved = new SavedVm { Enrolment = 2 } },
            "0a0b08c3d590d80610809c9c39b20403e80802"),
        ("vm-move-began", new VmMoveBegan { At = At, SavedHost = "rack1-7" },
            "0a0b08c3d590d80610809c9c39e208077261636b312d37"),
        ("vm-moved", new VmMoved { At = At, Host = "rack1-7", Epoch = 3, Saved = new SavedVm { Host = "a", Epoch = 2, Driver = "kvm", Address = "h:1", Digest = new SnapshotDigest { StateBytes = 1, MemoryBytes = 2, StateSha256 = ByteString.CopyFrom(3), MemorySha256 = ByteString.CopyFrom(4) } } },
            "0a0b08c3d590d80610809c9c3912077261636b312d371803b2041b0a016110021a036b766d2203683a312a0a080110021a0103220104"),
        ("vm-created", new VmCreated { At = At, Id = "vm-1", Spec = new VmSpec { Name = "hello", Volumes = { new VolumeMount { Name = "data", Path = "/data", SizeMib = 64 } } } },
            "0a0b08c3d590d80610809c9c391204766d2d311a190a0568656c6c6fe2030f0a046461746112052f646174611840"),
        ("vm-placed", new VmPlaced { At = At, Host = "rack1-7", Epoch = 3, Volumes = { new VolumeGrant { Name = "data", SizeMib = 64, Generation = 2 } } },
            "0a0b08c3d590d80610809c9c3912077261636b312d371803e2030a0a046461746110401802"),
        ("host-reserved", new HostReserved { At = At, VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Volumes = { "acme/data" } },
            "0a0b08c3d590d80610809c9c391204766d2d3118032002288002e2030961636d652f64617461"),
        ("host-snapshot", new HostSnapshot { Entries = { new LedgerEntry { VmId = "vm-1", Epoch = 3, Cpus = 2, MemoryMib = 256, Volumes = { "acme/data" } } } },
            "12190a04766d2d3110031802208002e2030961636d652f64617461"),
        ("volumes-put", new VolumesPut { At = At, Volumes = { Volume() } },
            "0a0b08c3d590d80610809c9c39124c0a0461636d65120464617461184022077261636b312d3728023204766d2d31380340034a046261736550015a0b08c3d590d80610809c9c3962120a0b6e6f5f63617061636974791203776879"),
        ("volume-gone", new VolumeGone { At = At, Tenant = "acme", Name = "data" },
            "0a0b08c3d590d80610809c9c39120461636d651a0464617461"),
        ("volumes-kept", new VolumesKept { At = At, Volumes = { Volume() } },
            "0a0b08c3d590d80610809c9c39124c0a0461636d65120464617461184022077261636b312d3728023204766d2d31380340034a046261736550015a0b08c3d590d80610809c9c3962120a0b6e6f5f63617061636974791203776879"),
        ("vm-placed", new VmPlaced { At = At, Host = "rack1-7", Epoch = 3, Volumes = { new VolumeGrant { Name = "data", SizeMib = 64, Generation = 2, Id = "0a" } } },
            "0a0b08c3d590d80610809c9c3912077261636b312d371803e2030f0a046461746110401802820a023061"),
        ("volumes-put", new VolumesPut { At = At, Volumes = { new VolumeRecord { Tenant = "acme", Name = "data", Id = "0a" } } },
            "0a0b08c3d590d80610809c9c3912110a0461636d65120464617461820a023061"),
        ("volume-gone", new VolumeGone { At = At, Tenant = "acme", Name = "data", Left = Left() },
            "0a0b08c3d590d80610809c9c39120461636d651a0464617461820a190a077261636b312d37120461636d651a046461746122023061"),
        ("left-volume-gone", new LeftVolumeGone { At = At, Left = Left() },
            "0a0b08c3d590d80610809c9c3912190a077261636b312d37120461636d651a046461746122023061"),
        ("volumes-kept", new VolumesKept { At = At, Left = { Left() } },
            "0a0b08c3d590d80610809c9c39820a190a077261636b312d37120461636d651a046461746122023061"),
        ("host-reserved", new HostReserved { At = At, VmId = "vm-1", Epoch = 1, Cpus = 2, MemoryMib = 256, Round = 7 },
            "0a0b08c3d590d80610809c9c391204766d2d3118012002288002800507"),
        ("host-snapshot", new HostSnapshot { Entries = { new LedgerEntry { VmId = "vm-1", Epoch = 1, Cpus = 2, MemoryMib = 256, Round = 7 } } },
            "12100a04766d2d3110011802208002800507"),
        ("gang-placed", new GangPlaced { At = At, Places = { new GangPlace { VmId = "vm-1", Host = "rack1-7", Epoch = 1, Round = 7 } } },
            "0a0b08c3d590d80610809c9c3912140a04766d2d3112077261636b312d371801800507"),
    ];

    public static TheoryData<int> All => [.. Enumerable.Range(0, Samples.Length)];

    [Theory]
    [MemberData(nameof(All))]
    public void Should_still_be_readable(int sample)
    {
        var (manifest, expected, hex) = Samples[sample];
        var read = new CellSerializer((ExtendedActorSystem)_system).FromBinary(Convert.FromHexString(hex), manifest);
        Assert.Equal(expected, read);
    }

    [Fact]
    public void Should_exist_for_everything_that_is_stored() =>
        Assert.Empty(CellSerializer.Known.Values.Where(manifest => !manifest.StartsWith("m-", StringComparison.Ordinal)).Except(Samples.Select(sample => sample.Manifest)));

    private static VmSpec Spec() => new()
    {
        Name = "hello",
        Cpus = 2,
        MemoryMib = 256,
        Command = { "sh", "-c", "exit 7" },
        Env = { ["A"] = "b" },
        Driver = "auto",
        Boot = new BootSource { KernelPath = "/k", InitrdPath = "/i", BootArgs = "quiet" },
        BootTimeoutSeconds = 120,
        Labels = { ["tier"] = "web" },
        Host = "rack1-7",
        Simulated = new SimulatedGuest { BootMs = 5, RunMs = 6, ExitStatus = 7, Fault = "vmm_dies" },
    };

    private static PlacementWishes Wishes() => new()
    {
        Groups = { "web" },
        Affinity = { new Affinity { Group = "db", Within = "host", Apart = true, Soft = true } },
        Spread = { new GroupSpread { Group = "web", Over = "zone", MostAhead = 2, Soft = true } },
    };

    private static OtherResources Other() => new() { DiskMib = 100, NetworkMbit = 50, Iops = 5 };

    private static LeftVolume Left() => new() { Host = "rack1-7", Tenant = "acme", Name = "data", Id = "0a" };

    private static VolumeRecord Volume() => new()
    {
        Tenant = "acme",
        Name = "data",
        SizeMib = 64,
        Host = "rack1-7",
        Generation = 2,
        VmId = "vm-1",
        Epoch = 3,
        State = VolumeState.Removing,
        CopyOf = "base",
        Snapshot = true,
        CreatedAt = At,
        Reason = Why,
    };

    private static TokenRecord Token() => new()
    {
        Id = "0123456789ab",
        Role = TokenRole.Tenant,
        SecretHash = ByteString.CopyFrom(1, 2, 3),
        Tenant = "acme",
        Host = "rack1-7",
        Note = "CI",
        CreatedAt = At,
        ExpiresAt = At,
        RevokedAt = At,
        CreatedBy = "ba9876543210",
    };

    private static Inventory Inventory() => new()
    {
        Cpus = 4,
        MemoryMib = 8192,
        Drivers = { new DriverStatus { Name = "qemu", Usable = true, Detail = "QEMU 7.2", StockKernels = true } },
        AutoDriver = "qemu",
        Kernel = "6.1.0",
        Architecture = "x86_64",
        Labels = { ["rack"] = "1" },
    };

    private static HostRecord Record() => new()
    {
        Id = "rack1-7",
        State = HostState.Connected,
        Inventory = Inventory(),
        ReservedCpus = 2,
        ReservedMemoryMib = 256,
        Vms = 1,
        AgentVersion = "0.1.0",
        ConnectedAt = At,
        ChangedAt = At,
        Version = 9,
    };
}
