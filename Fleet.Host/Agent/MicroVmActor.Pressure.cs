using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Host.Pressure;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>What the microVM and its vCPUs use and wait for, and the share of CPU that it gets.</summary>
internal sealed partial class MicroVmActor
{
    /// <summary>Of its weight: where CPUs are short it gets a quarter of what its vCPUs would get.</summary>
    private const double SqueezedWeight = 0.25;

    private readonly List<IActorRef> _vcpus = [];
    private readonly Dictionary<int, VcpuUsage> _used = [];
    private CpuShare? _share;
    private Ease _ease = Ease.Nothing;
    private IActorRef? _balloon;
    private bool _shareFailed;

    /// <summary>What this microVM is to give for the others' sake while the host is short.</summary>
    /// <param name="Memory">What its guest does not need.</param>
    /// <param name="Cpu">Some of its share, where CPUs are short.</param>
    public sealed record Ease(bool Memory, bool Cpu) : INoSerializationVerificationNeeded
    {
        public static readonly Ease Nothing = new(false, false);
    }

    private CreditTerms? Terms => _context.Credits?.Of(_record.Launch.Spec.Priority);

    private void OnEase(Ease ease)
    {
        _ease = ease;
        if (_vmm is null || !_life.HasVmm)
            return;
        ShareCpu();
        MindBalloon();
    }

    /// <summary>A balloon is minded from the first time that the host is short; that of a VMM which was taken over in any case.</summary>
    private void MindBalloon()
    {
        if (_balloon is not null)
            _balloon.Tell(new BalloonActor.Reclaim(_ease.Memory));
        else if (_ease.Memory || _found)
            _balloon = Context.ActorOf(Props.Create<BalloonActor>(_vmm!, _record.Launch.Spec.MemoryMib, _ease.Memory, _context, _log), "balloon");
    }

    private void EndBalloon()
    {
        if (_balloon is not null)
            Context.Stop(_balloon);
    }

    private void Read()
    {
        if (_life.State != HostVmState.Running || _vmm is not { } vmm)
            return;
        if (vmm.ReadUse() is { } use)
            Context.Parent.Tell(new HostAgentActor.UseRead(_record.Launch.VmId, _record.Launch.Epoch, use, Monotonic));
        foreach (var vcpu in _vcpus)
            vcpu.Tell(VcpuActor.GetUsage.Instance);
    }

    private void OnVcpu(VcpuUsage vcpu)
    {
        Context.Parent.Tell(new HostAgentActor.VcpuRead(_record.Launch.VmId, _record.Launch.Epoch, vcpu));
        _used[vcpu.Index] = vcpu;
        ShareLoan(vcpu);
        // Not by halves: until all have answered it is not known what they may use together.
        if (_used.Count == _vcpus.Count)
            ShareCpu();
    }

    /// <summary>What a vCPU used of the others' share is paid, to equal parts, by those that took nothing themselves.</summary>
    private void ShareLoan(VcpuUsage vcpu)
    {
        if (vcpu.Lent <= TimeSpan.Zero)
            return;
        var lenders = _used.Values.Where(one => one.Lent <= TimeSpan.Zero).Select(one => _vcpus[one.Index]).ToList();
        foreach (var lender in lenders)
            lender.Tell(new VcpuActor.Pay(vcpu.Lent / lenders.Count));
    }

    /// <summary>Sets what the microVM may use of the CPUs, where that is another than it was; one that was taken over is always set.</summary>
    private void ShareCpu()
    {
        if (_vmm is not { } vmm || !_life.HasVmm)
            return;
        var cpus = _record.Launch.Spec.Cpus;
        var weight = cpus * (Terms?.Weight ?? 1) * (_ease.Cpu ? SqueezedWeight : 1);
        var share = new CpuShare(cpus, _used.Values.Any(vcpu => vcpu.Allowance < 1) ? _used.Values.Sum(vcpu => vcpu.Allowance) : null, weight);
        if (share == _share)
            return;
        try
        {
            vmm.ShareCpu(share);
            if (_share is not null)
                _log.Debug("The microVM gets {Share}", share);
            (_share, _shareFailed) = (share, false);
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            // Said once; it is tried again with the next reading.
            if (!_shareFailed)
                _log.Warning("The microVM's share of CPU can't be set: {Why}", failed.Message);
            _shareFailed = true;
        }
    }
}
