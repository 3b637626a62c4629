using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;
using Xunit;

namespace Fleet.Scheduler.Tests.Volumes;

public sealed class VolumeBookTests
{
    private static readonly Timestamp At = Timestamp.FromDateTimeOffset(DateTimeOffset.UnixEpoch);

    private const string Id = "0123456789abcdef0123456789abcdef";
    private const string Other = "1123456789abcdef0123456789abcdef";

    private VolumeBook _book = new();

    [Fact]
    public void Should_be_in_one_place_from_the_first_time_on_and_count_each_time()
    {
        Assert.Null(Give("vm-1", 1, "h1"));
        Assert.Equal(1ul, Grant("vm-1", 1, "h1").Generation);
        // Asked again: the same.
        Assert.Null(Give("vm-1", 1, "h1"));
        Assert.Equal(1ul, Grant("vm-1", 1, "h1").Generation);
        Assert.Equal("volume_elsewhere", Give("vm-2", 1, "h2"));
        Assert.Null(Give("vm-1", 2, "h1"));
        Assert.Equal((2ul, 64ul), (Grant("vm-1", 2, "h1").Generation, Grant("vm-1", 2, "h1").SizeMib));
        Assert.Equal("volume_stale", Give("vm-1", 1, "h1"));
        Assert.Null(Give("vm-2", 1, "h1"));
        Assert.Equal(3ul, Grant("vm-2", 1, "h1").Generation);
        // Another tenant's is another.
        Assert.Null(Give("vm-3", 1, "h2", tenant: "other"));
    }

    [Fact]
    public void Should_know_from_the_first_use_or_copy_on_that_it_was_made()
    {
        var used = new VolumesUsed { Host = "h1", Tenant = "acme", Names = { "data", "none" } };
        Assert.Null(_book.Used(used, At));
        Assert.Null(Give("vm-1", 1, "h1"));
        Assert.False(Grant("vm-1", 1, "h1").Made);
        Assert.Null(_book.Used(new VolumesUsed { Host = "h2", Tenant = "acme", Names = { "data" } }, At));
        Carry(new(_book.Used(used, At)));
        Assert.True(Grant("vm-1", 1, "h1").Made);
        Assert.Null(_book.Used(used, At));
        Carry(_book.Copy(new CopyVolume { Tenant = "acme", Name = "data", CopyTo = "copy" }, At, Id));
        Assert.False(_book.Find("acme", "copy")!.Made);
        Answer(_book.OrderFor(_book.Find("acme", "copy")!)!, VolumeOrderOutcome.Done, first: false);
        Assert.True(_book.Find("acme", "copy")!.Made);
    }

    [Fact]
    public void Should_give_all_or_none()
    {
        Assert.Null(Give("vm-1", 1, "h1"));
        var both = new GiveVolumes { VmId = "vm-2", Epoch = 1, Host = "h2", Tenant = "acme", Volumes = { Mount("fresh"), Mount("data") } };
        Assert.Equal("volume_elsewhere", _book.Give(both, At, Id).Problem?.Code);
        Assert.Null(_book.Find("acme", "fresh"));
    }

    [Fact]
    public void Should_make_no_more_than_the_cell_may_have()
    {
        for (var made = 0; made < VolumeBook.MostVolumes; made++)
            Carry(_book.Create(new CreateVolume { Tenant = "acme", Name = $"v{made}", SizeMib = 64, Host = "h1" }, At, Id));
        Assert.Equal("too_many_volumes", _book.Create(new CreateVolume { Tenant = "acme", Name = "one-more", SizeMib = 64, Host = "h1" }, At, Id).Problem?.Code);
        Assert.Equal("too_many_volumes", Give("vm-1", 1, "h1"));
        // Those that are there need no more.
        Assert.Equal(("too_many_volumes", null), (_book.TooMany("acme", ["v1", "data"])?.Code, _book.TooMany("acme", ["v1", "v2"])));
        Carry(new(new VolumeGone { At = At, Tenant = "acme", Name = "v0" }));
        Assert.Null(Give("vm-1", 1, "h1"));
    }

    [Fact]
    public void Should_give_none_that_is_being_removed_and_give_it_again_when_it_is_not_after_all()
    {
        Assert.Null(Give("vm-1", 1, "h1"));
        var remove = new RemoveVolume { Tenant = "acme", Name = "data" };
        Carry(_book.Remove(remove, At));
        Assert.Equal("volume_in_use", Give("vm-2", 1, "h1"));
        var order = _book.OrderFor(_book.Find("acme", "data")!)!;
        Answer(order, VolumeOrderOutcome.InUse, first: true);
        Assert.Null(Give("vm-2", 1, "h1"));

        Carry(_book.Remove(remove, At));
        // Nobody waits any more: it goes on, until it is done.
        Answer(order, VolumeOrderOutcome.InUse, first: false);
        Answer(order, VolumeOrderOutcome.Sent, first: false);
        Assert.Equal(VolumeState.Removing, Assert.Single(_book.Pending).State);
        // Another host has no say.
        Assert.Null(_book.Answered(new VolumeOrderAnswer { HostId = "h2", Order = order, Outcome = VolumeOrderOutcome.Done }, false, At));
        Answer(order, VolumeOrderOutcome.Done, first: false);
        Assert.Null(_book.Find("acme", "data"));
        Assert.Equal("not_found", _book.Remove(remove, At).Problem?.Code);
        Assert.Null(Give("vm-3", 1, "h2"));
    }

    [Fact]
    public void Should_copy_beside_the_source_and_never_give_a_snapshot()
    {
        Assert.Null(Give("vm-1", 1, "h1"));
        var copy = new CopyVolume { Tenant = "acme", Name = "data", CopyTo = "snap", Snapshot = true };
        Carry(_book.Copy(copy, At, Id));
        Assert.Equal("volume_in_use", _book.Remove(new RemoveVolume { Tenant = "acme", Name = "data" }, At).Problem?.Code);
        Answer(_book.OrderFor(_book.Find("acme", "snap")!)!, VolumeOrderOutcome.Done, first: false);
        var snap = _book.Find("acme", "snap")!;
        Assert.Equal((VolumeState.Ready, "h1", 64ul, "data", true), (snap.State, snap.Host, snap.SizeMib, snap.CopyOf, snap.Snapshot));
        Assert.Equal("volume_is_snapshot", _book.Give(new GiveVolumes { VmId = "vm-2", Epoch = 1, Host = "h1", Tenant = "acme", Volumes = { Mount("snap") } }, At, Id).Problem?.Code);
        // From it a clone that can be written to.
        Carry(_book.Copy(new CopyVolume { Tenant = "acme", Name = "snap", CopyTo = "clone" }, At, Id));
        var order = _book.OrderFor(_book.Find("acme", "clone")!)!;
        Assert.Equal(("snap", "clone"), (order.Name, order.CopyTo));
        Carry(new(_book.Answered(new VolumeOrderAnswer { HostId = "h1", Order = order, Outcome = VolumeOrderOutcome.Refused, Problem = new Reason { Code = "volume_no_room" } }, false, At)));
        Assert.Equal((VolumeState.Failed, "volume_no_room"), (_book.Find("acme", "clone")!.State, _book.Find("acme", "clone")!.Reason.Code));
        Assert.Equal("name_taken", _book.Copy(copy, At, Id).Problem?.Code);
        Assert.Equal("not_found", _book.Copy(new CopyVolume { Tenant = "acme", Name = "none", CopyTo = "x" }, At, Id).Problem?.Code);
    }

    [Fact]
    public void Should_be_gone_with_a_host_that_was_removed()
    {
        Carry(_book.Create(new CreateVolume { Tenant = "acme", Name = "data", SizeMib = 64, Host = "h1" }, At, Id));
        Assert.Equal("wrong_state", _book.Copy(new CopyVolume { Tenant = "acme", Name = "data", CopyTo = "x" }, At, Id).Problem?.Code);
        Carry(_book.Remove(new RemoveVolume { Tenant = "acme", Name = "data" }, At));
        Answer(_book.OrderFor(_book.Find("acme", "data")!)!, VolumeOrderOutcome.NoHost, first: true);
        Assert.Equal(0, _book.Count);
    }

    [Fact]
    public void Should_remember_what_was_left_on_a_host_that_was_removed_until_it_has_said_that_it_is_gone()
    {
        Assert.Null(Give("vm-1", 1, "h1"));
        Carry(_book.Remove(new RemoveVolume { Tenant = "acme", Name = "data" }, At));
        Answer(_book.OrderFor(_book.Find("acme", "data")!)!, VolumeOrderOutcome.NoHost, first: true);
        var left = Assert.Single(_book.Left);
        Assert.Equal(new LeftVolume { Host = "h1", Tenant = "acme", Name = "data", Id = Id }, left);
        Reopen();

        // Of its name there is none in its place, and one elsewhere.
        Assert.Equal("volume_in_use", Give("vm-2", 1, "h1", id: Other));
        Assert.Null(_book.Find("acme", "data"));
        Assert.Null(Give("vm-3", 1, "h1", tenant: "other"));
        Assert.Null(Give("vm-2", 1, "h2", id: Other));
        Assert.Equal(Other, Grant("vm-2", 1, "h2").Id);

        var order = VolumeBook.OrderFor(left);
        Assert.Null(_book.SubjectOf(order));
        Assert.Null(LeftAnswer("h1", order, VolumeOrderOutcome.Refused));
        Assert.Null(LeftAnswer("h1", order, VolumeOrderOutcome.NoHost));
        Assert.Null(LeftAnswer("h2", order, VolumeOrderOutcome.Done));
        _book.Apply(LeftAnswer("h1", order, VolumeOrderOutcome.Done)!);
        Reopen();
        Assert.Empty(_book.Left);
        Assert.Equal(Other, _book.Find("acme", "data")!.Id);
    }

    [Fact]
    public void Should_have_no_copy_made_where_an_earlier_one_of_its_name_was_left()
    {
        _book.Apply(new VolumeGone { At = At, Tenant = "acme", Name = "copy", Left = new LeftVolume { Host = "h1", Tenant = "acme", Name = "copy" } });
        Assert.Null(Give("vm-1", 1, "h1"));
        var copy = new CopyVolume { Tenant = "acme", Name = "data", CopyTo = "copy" };
        Assert.Equal("volume_in_use", _book.Copy(copy, At, Other).Problem?.Code);
        _book.Apply(new LeftVolumeGone { At = At, Left = _book.Left[0] });
        Carry(_book.Copy(copy, At, Other));
        Assert.Equal(new VolumeOrder { Tenant = "acme", Name = "data", CopyTo = "copy", Id = Other, SourceId = Id }, _book.OrderFor(_book.Find("acme", "copy")!));
    }

    [Fact]
    public void Should_remember_only_so_much_that_was_left()
    {
        for (var i = 0; i <= VolumeBook.MostLeft; i++)
            _book.Apply(new VolumeGone { At = At, Tenant = "acme", Name = "data", Left = new LeftVolume { Host = $"h{i}", Tenant = "acme", Name = "data", Id = Id } });
        Assert.Equal((VolumeBook.MostLeft, "h1"), (_book.Left.Count, _book.Left[0].Host));
    }

    /// <summary>One of a journal from before ids has none for ever.</summary>
    [Fact]
    public void Should_go_on_with_volumes_that_have_no_id()
    {
        _book.Apply(new VolumesPut { At = At, Volumes = { new VolumeRecord { Tenant = "acme", Name = "data", SizeMib = 64, Host = "h1", Generation = 3, State = VolumeState.Ready } } });
        Assert.Null(Give("vm-1", 1, "h1"));
        Assert.Equal(("", 4ul), (Grant("vm-1", 1, "h1").Id, Grant("vm-1", 1, "h1").Generation));
        Carry(_book.Remove(new RemoveVolume { Tenant = "acme", Name = "data" }, At));
        Assert.Equal(new VolumeOrder { Tenant = "acme", Name = "data" }, _book.OrderFor(_book.Find("acme", "data")!));
        Answer(_book.OrderFor(_book.Find("acme", "data")!)!, VolumeOrderOutcome.NoHost, first: true);
        Assert.Equal("", Assert.Single(_book.Left).Id);
        Assert.Equal("volume_in_use", Give("vm-2", 1, "h1"));
    }

    private void Reopen()
    {
        var kept = new VolumesKept { At = At, Volumes = { _book.All }, Left = { _book.Left } };
        _book = new VolumeBook();
        _book.Apply(kept);
    }

    private Google.Protobuf.IMessage? LeftAnswer(string host, VolumeOrder order, VolumeOrderOutcome outcome) =>
        _book.LeftAnswered(new VolumeOrderAnswer { HostId = host, Order = order, Outcome = outcome }, At);

    private static VolumeMount Mount(string name) => new() { Name = name, Path = "/" + name, SizeMib = 64 };

    private static GiveVolumes Request(string vmId, ulong epoch, string host, string tenant = "acme") =>
        new() { VmId = vmId, Epoch = epoch, Host = host, Tenant = tenant, Volumes = { Mount("data") } };

    private string? Give(string vmId, ulong epoch, string host, string tenant = "acme", string id = Id) => Carry(_book.Give(Request(vmId, epoch, host, tenant), At, id));

    private VolumeGrant Grant(string vmId, ulong epoch, string host) => Assert.Single(_book.GrantsOf(Request(vmId, epoch, host)));

    private string? Carry(VolumeDecision decision)
    {
        if (decision.Event is { } stored)
            _book.Apply(stored);
        return decision.Problem?.Code;
    }

    private void Answer(VolumeOrder order, VolumeOrderOutcome outcome, bool first) =>
        Carry(new(_book.Answered(new VolumeOrderAnswer { HostId = "h1", Order = order, Outcome = outcome }, first, At)));
}
