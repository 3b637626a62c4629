using System.Globalization;
using System.Net.Sockets;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Npgsql;

namespace Fleet.Scheduler.Membership;

/// <summary>
/// Which nodes form the cell of a database. A node that starts looks here whom to join, and only one that finds nobody may form the cell, so
/// that two cells never write to one journal; Akka's seed nodes can't rule that out, since the first seed forms a cell of its own when it
/// is cut off at its start.
/// </summary>
/// <remarks>
/// A node counts as alive for <see cref="AliveFor"/> after its last beat, by the database's clock, and ends itself after <see cref="EndsAfter"/> without
/// one, by its own: what it would do after that (grant leases above all) could contradict a cell that was formed since. Where another node reaches the database
/// all the while it ends itself much sooner: what it has in charge can go on there. A node whose port
/// refuses connections and that has not beaten for a while is dead: its machine answers, its process does not.
/// Whoever has bound an address has it: a node that is told another's ends that one.
/// </remarks>
internal sealed class CellRegister : IAsyncDisposable
{
    public static readonly TimeSpan AliveFor = TimeSpan.FromMinutes(5);

    public static readonly TimeSpan EndsAfter = TimeSpan.FromMinutes(4);

    /// <summary>After so long without a beat the other nodes are asked whether they have any.</summary>
    public static readonly TimeSpan AloneAfter = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan Beat = TimeSpan.FromSeconds(2);

    private static readonly TimeSpan BeatPatience = TimeSpan.FromSeconds(5);

    private static readonly TimeSpan ProbePatience = TimeSpan.FromSeconds(1);

    /// <summary>Any number that nobody else uses.</summary>
    private const long RegisterLock = 0x466c656574_03;

    private const string Announce =
        """
        insert into cell_nodes (address, incarnation, member, seen_at) values (@address, @incarnation, false, now())
        on conflict (address) do update
        set incarnation = excluded.incarnation, member = cell_nodes.member and cell_nodes.incarnation = excluded.incarnation, seen_at = now()
        """;

    private readonly PostgresDatabase _database;
    private readonly NpgsqlDataSource _source;
    private readonly string _address;
    private readonly Guid _incarnation = Guid.NewGuid();
    private readonly TimeProvider _clock;
    private readonly Serilog.ILogger _log;
    private readonly CancellationTokenSource _stop = new();
    private Task _beating = Task.CompletedTask;
    private volatile bool _silent;
    private long _last;

    /// <param name="database">That the cell shares.</param>
    /// <param name="address">HOST:PORT where other nodes reach this one.</param>
    /// <param name="clock">Times the beats.</param>
    /// <param name="log">Where trouble is told.</param>
    public CellRegister(PostgresDatabase database, string address, TimeProvider clock, Serilog.ILogger log)
    {
        _database = database;
        _source = database.ToSource();
        _address = address;
        _clock = clock;
        _log = log;
    }

    /// <summary>
    /// Notes that this node has been started, once it has bound its address: nobody waits any more for the one that had it. That the address is this node's alone is not known by that, only
    /// that no other process here has it. Where all nodes of a cell are started at once none of them spends its time with those that were there before.
    /// </summary>
    /// <exception cref="CellStartException">The database can't be used.</exception>
    public async Task AnnounceAsync(CancellationToken cancellation)
    {
        try
        {
            await ExecuteAsync(Announce, cancellation, ("@address", _address), ("@incarnation", _incarnation)).ConfigureAwait(false);
        }
        catch (Exception fault) when (fault is NpgsqlException or TimeoutException or SocketException)
        {
            throw PostgresJournal.Unusable(_database, fault);
        }
    }

    /// <summary>
    /// Notes that this node wants in, and answers whom it is to join: HOST:PORT of every member that may be alive. None: this node is noted as
    /// a member, and forms the cell.
    /// </summary>
    /// <param name="probe">Whether to look which of them are dead: they did not take this node in. Their logs show each look.</param>
    /// <param name="cancellation">Ends it.</param>
    public async Task<IReadOnlyList<string>> EnterAsync(bool probe, CancellationToken cancellation)
    {
        while (true)
        {
            var members = await ReadMembersAsync(cancellation).ConfigureAwait(false);
            if (!probe)
                return [.. members.Select(member => member.Address)];
            var dead = new List<Guid>();
            foreach (var (address, incarnation) in members)
            {
                if (await RefusesAsync(address, cancellation).ConfigureAwait(false))
                    dead.Add(incarnation);
            }
            // Who is dead is told by incarnation: one that was started again meanwhile stays. Whoever beats is alive, whatever answers at its address: a
            // firewall refuses connections too.
            if (dead.Count == 0 || await ExecuteAsync(
                "delete from cell_nodes where incarnation = any(@dead) and seen_at < now() - @beats", cancellation, ("@dead", dead.ToArray()), ("@beats", 3 * Beat)).ConfigureAwait(false) == 0)
            {
                return [.. members.Select(member => member.Address)];
            }
            _log.Information("{Nodes} nodes of the cell refuse connections and count as ended", dead.Count);
        }
    }

    /// <summary>The last beats were written.</summary>
    public bool ReachesDatabase => _clock.GetElapsedTime(Volatile.Read(ref _last)) < 3 * Beat;

    /// <summary>This node has joined. From now on it beats.</summary>
    /// <param name="whoReaches">Names another node that reaches the database; null: none.</param>
    /// <param name="lost">Called when it may not go on as a member, or had better not.</param>
    /// <param name="cancellation">Ends the first word.</param>
    public async Task StayAsync(Func<CancellationToken, Task<string?>> whoReaches, Action<string> lost, CancellationToken cancellation)
    {
        if (await ExecuteAsync("update cell_nodes set member = true, seen_at = now() where incarnation = @incarnation", cancellation, ("@incarnation", _incarnation)).ConfigureAwait(false) == 0)
            throw new CellStartException($"Another node with the address {_address} was started: give each its own --cluster.");
        Volatile.Write(ref _last, _clock.GetTimestamp());
        _beating = Task.Run(() => BeatAsync(whoReaches, lost), CancellationToken.None);
    }

    /// <summary>Its actors have ended, for whatever reason: it beats no more, so that nobody waits for it.</summary>
    public void Silence() => _silent = true;

    /// <summary>This node has left, or gives up.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        await _beating.ConfigureAwait(false);
        try
        {
            await ExecuteAsync("delete from cell_nodes where incarnation = @incarnation", CancellationToken.None, ("@incarnation", _incarnation)).ConfigureAwait(false);
        }
        catch (Exception fault) when (fault is NpgsqlException or TimeoutException or SocketException)
        {
            _log.Warning("This node could not be taken off the cell's register: {Reason:l}. It counts as a member for {AliveFor} more, unless it starts again", fault.Message, AliveFor);
        }
        await _source.DisposeAsync().ConfigureAwait(false);
        _stop.Dispose();
    }

    private async Task BeatAsync(Func<CancellationToken, Task<string?>> whoReaches, Action<string> lost)
    {
        var alone = 0;
        using var timer = new PeriodicTimer(Beat, _clock);
        try
        {
            while (await timer.WaitForNextTickAsync(_stop.Token).ConfigureAwait(false))
            {
                if (_silent)
                    return;
                try
                {
                    var began = _clock.GetTimestamp();
                    using var limit = new CancellationTokenSource(BeatPatience, _clock);
                    using var ends = CancellationTokenSource.CreateLinkedTokenSource(limit.Token, _stop.Token);
                    // One that was away for too long, by whatever clock, has been given up: a cell may have been formed without it.
                    var kept = await ExecuteAsync("update cell_nodes set seen_at = now() where incarnation = @incarnation and seen_at > now() - @alive", ends.Token, ("@incarnation", _incarnation), ("@alive", AliveFor)).ConfigureAwait(false);
                    if (kept == 0)
                    {
                        lost("Another node took its place in the cell's register: its address was used again, or it was silent for too long.");
                        return;
                    }
                    Volatile.Write(ref _last, began);
                    alone = 0;
                }
                catch (Exception fault) when (!_stop.IsCancellationRequested)
                {
                    _log.Warning("The cell's register could not be written: {Reason:l}", fault.Message);
                    var other = _clock.GetElapsedTime(_last) < AloneAfter ? null : await whoReaches(_stop.Token).ConfigureAwait(false);
                    // Twice, with a try of its own between: a database that comes back is not there for all in the same moment.
                    alone = other is null ? 0 : alone + 1;
                    if (alone == 2)
                    {
                        lost(string.Create(CultureInfo.InvariantCulture, $"The database is reached by {other}, and has not been from here for {_clock.GetElapsedTime(_last).TotalSeconds:0} s."));
                        return;
                    }
                }
                if (_clock.GetElapsedTime(_last) < EndsAfter)
                    continue;
                lost(string.Create(CultureInfo.InvariantCulture, $"The database was not reached for {EndsAfter.TotalMinutes:0} minutes."));
                return;
            }
        }
        catch (OperationCanceledException) when (_stop.IsCancellationRequested)
        {
            // It leaves in order.
        }
    }

    private async Task<List<(string Address, Guid Incarnation)>> ReadMembersAsync(CancellationToken cancellation)
    {
        await using var connection = await _source.OpenConnectionAsync(cancellation).ConfigureAwait(false);
        await using var transaction = await connection.BeginTransactionAsync(cancellation).ConfigureAwait(false);
        // Of nodes that start together one forms the cell, and the others find it.
        await RunAsync(connection, $"select pg_advisory_xact_lock({RegisterLock})", cancellation).ConfigureAwait(false);
        await RunAsync(connection, Announce, cancellation, ("@address", _address), ("@incarnation", _incarnation)).ConfigureAwait(false);
        // In one piece with forming: a beat that is being written keeps its row, and one that comes later finds none.
        await RunAsync(connection, "delete from cell_nodes where seen_at <= now() - @alive", cancellation, ("@alive", AliveFor)).ConfigureAwait(false);
        var members = new List<(string, Guid)>();
        await using (var read = Command(
            connection, "select address, incarnation from cell_nodes where member and incarnation <> @incarnation order by address",
            ("@incarnation", _incarnation)))
        {
            await using var rows = await read.ExecuteReaderAsync(cancellation).ConfigureAwait(false);
            while (await rows.ReadAsync(cancellation).ConfigureAwait(false))
                members.Add((rows.GetString(0), rows.GetGuid(1)));
        }
        if (members.Count == 0)
            await RunAsync(connection, "update cell_nodes set member = true where incarnation = @incarnation", cancellation, ("@incarnation", _incarnation)).ConfigureAwait(false);
        await transaction.CommitAsync(cancellation).ConfigureAwait(false);
        return members;
    }

    private static async Task<bool> RefusesAsync(string address, CancellationToken cancellation)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(ProbePatience);
        using var probe = new TcpClient();
        try
        {
            var (host, port) = NodeAddress.Split(address);
            await probe.ConnectAsync(host, port, patience.Token).ConfigureAwait(false);
            return false;
        }
        catch (SocketException fault)
        {
            return fault.SocketErrorCode == SocketError.ConnectionRefused;
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            return false;
        }
    }

    private async Task<int> ExecuteAsync(string sql, CancellationToken cancellation, params (string Name, object Value)[] values)
    {
        await using var connection = await _source.OpenConnectionAsync(cancellation).ConfigureAwait(false);
        return await RunAsync(connection, sql, cancellation, values).ConfigureAwait(false);
    }

    private static async Task<int> RunAsync(NpgsqlConnection connection, string sql, CancellationToken cancellation, params (string Name, object Value)[] values)
    {
        await using var command = Command(connection, sql, values);
        return await command.ExecuteNonQueryAsync(cancellation).ConfigureAwait(false);
    }

    private static NpgsqlCommand Command(NpgsqlConnection connection, string sql, params ReadOnlySpan<(string Name, object Value)> values)
    {
        var command = new NpgsqlCommand(sql, connection);
        foreach (var (name, value) in values)
            command.Parameters.AddWithValue(name, value);
        return command;
    }
}
